"""Write a run's metrics as JSON lines, and draw curves from them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from accelerate.tracking import GeneralTracker

from ssia_zoo.figures import can_draw, new_figure
from ssia_zoo.files import atomic_write
from ssia_zoo.models.metric_names import METRICS, main_metric

Record = dict[str, Any]

_CURVES_SECONDS = 60.0  # drawing takes half a second


class MetricsTracker(GeneralTracker):  # type: ignore[misc]  # Accelerate has no types
    """Accelerate tracker that writes each `accelerator.log` call as a line of metrics.jsonl and keeps curves.png.

    A call's values share a prefix, "train/" or "eval/", which becomes the line's "kind". curves.png is drawn after each
    evaluation and once a minute.

    Args:
        folder: Folder of the run.
        label: Name of the run in the legend of curves.png.
    """

    name = "metrics.jsonl"
    requires_logging_directory = False

    def __init__(self, folder: Path, label: str) -> None:
        super().__init__()
        self.path = folder / self.name
        self._label = label
        self._count = 0
        self._drawn = 0.0

    @property
    def tracker(self) -> Path:
        """The file, as `Accelerator.get_tracker(name, unwrap=True)` returns it."""
        return self.path

    def resume(self, keep: int) -> None:
        """Keep this many lines of an earlier run and drop the rest, whose steps are trained again."""
        self._drawn = time.monotonic()
        if self.path.exists():
            kept = read_records(self.path)[:keep]
            self._count = len(kept)
            with atomic_write(self.path) as temporary:
                temporary.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")

    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Append one line."""
        kind = next(iter(values)).partition("/")[0]
        plain = {name.removeprefix(f"{kind}/"): value for name, value in values.items()}
        record = {"kind": kind, "epoch": plain.pop("epoch"), "step": step, **plain}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self._count += 1
        if can_draw() and (kind == "eval" or time.monotonic() - self._drawn > _CURVES_SECONDS):
            self._drawn = time.monotonic()
            draw_curves({self._label: read_records(self.path)}, self.path.with_name("curves.png"))

    def flush(self) -> int:
        """Wait until all lines are on disk; return their number."""
        with self.path.open("a", encoding="utf-8") as file:
            os.fsync(file)
        return self._count


def read_records(path: Path) -> list[Record]:
    """Read a metrics file, without a last line that a killed run left incomplete."""
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
    """Draw training loss and evaluation top-1 (mAP for several labels an image) of one or more runs.

    Args:
        runs: Records of each run, by its name in the legend.
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
        top1.plot([r["epoch"] for r in evaluated], [r[main_metric(r)] for r in evaluated], marker=".", label=name)
    loss.set(xlabel="epoch", ylabel="training loss", title="training loss")
    metric = METRICS[main_metric(next((r for rs in runs.values() for r in rs if r["kind"] == "eval"), {}))]
    top1.set(xlabel="epoch", ylabel=f"{metric}, %", title=f"evaluation {metric}")
    for axes in (loss, top1):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
