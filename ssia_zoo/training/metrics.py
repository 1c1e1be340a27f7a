"""What a run writes down: metrics as JSON lines, and curves drawn from them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ssia_zoo.figures import new_figure

Record = dict[str, Any]


class Records:
    """The metrics of one run, a JSON object a line.

    Args:
        path: File to append to.
        keep: Lines that the checkpoint which the run continues from has seen; later ones, of steps that are now trained
            again, are dropped.
    """

    def __init__(self, path: Path, keep: int = 0) -> None:
        self.path = path
        self._count = 0
        if path.exists():
            kept = read_records(path)[:keep]
            self._count = len(kept)
            temporary = path.with_suffix(".tmp")
            temporary.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
            os.replace(temporary, path)

    def append(self, record: Record) -> None:
        """Write one line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self._count += 1

    def flush(self) -> int:
        """Wait until all lines are on the disk; returns their number."""
        with self.path.open("a", encoding="utf-8") as file:
            os.fsync(file)
        return self._count


def read_records(path: Path) -> list[Record]:
    """Read a metrics file; a last line that was cut off when the run was killed is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and "step" in record:
            records.append(record)
    return records


def draw_curves(runs: dict[str, list[Record]], path: Path) -> None:
    """Draw training loss and evaluation top-1 of one or several runs.

    Args:
        runs: Records of each run, by the name that the legend shows.
        path: PNG to write.
    """
    figure = new_figure(10, 4)
    loss, top1 = figure.subplots(1, 2)
    for name, records in runs.items():
        train = [record for record in records if record["kind"] == "train"]
        evaluated = [record for record in records if record["kind"] == "eval"]
        loss.plot([r["epoch"] for r in train], [r["task_loss"] for r in train], label=f"{name}: task loss")
        if train and "ssia" in train[0]:
            loss.plot([r["epoch"] for r in train], [r["ssia"] for r in train], "--", label=f"{name}: SSIA loss (× 1/λ)")
        top1.plot([r["epoch"] for r in evaluated], [r["top1"] for r in evaluated], marker=".", label=name)
    loss.set(xlabel="epoch", ylabel="training loss", title="training loss")
    top1.set(xlabel="epoch", ylabel="top-1, %", title="evaluation top-1")
    for axes in (loss, top1):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, format="png", dpi=120)
    os.replace(temporary, path)
