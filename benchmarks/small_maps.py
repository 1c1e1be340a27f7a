"""Time training steps with and without small_maps.py's matrix products, in turns, in processor time.

PYTHONPATH=. python benchmarks/small_maps.py       # appends to results/small_maps.jsonl, writes docs/speed.md
"""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
import tyro
from _recording import append_record, replace_part

from ssia_zoo.training.small_maps import multiply_small_maps

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "small_maps.jsonl"
DOC = ROOT / "docs" / "speed.md"
BEGIN, END = "<!-- small maps: begin -->", "<!-- small maps: end -->"


@dataclass(frozen=True)
class Settings:
    """What to time: float32, channels_last, SGD, images of noise, one thread."""

    archs: tuple[str, ...] = ("resnet18", "resnet50", "mobilenetv3_small_100", "convnext_atto")
    """timm architectures"""
    sizes: tuple[int, ...] = (32, 64)
    """heights and widths, pixels"""
    batch: int = 64
    """images a step"""
    rounds: int = 8
    """steps of each, after one that is not counted"""


def measure(arch: str, size: int, settings: Settings) -> dict[str, Any]:
    """Median processor time of a step, plain and changed, in ms; and the median and quartiles of their ratio."""
    torch.manual_seed(0)
    images = torch.randn(settings.batch, 3, size, size).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (settings.batch,))
    runs = []
    for changed in (False, True):
        model = timm.create_model(arch, num_classes=10).train().to(memory_format=torch.channels_last)
        if changed:
            multiply_small_maps(model)
        runs.append((model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)))
    taken: list[list[float]] = []
    for _ in range(settings.rounds + 1):
        taken.append([])
        for model, optimizer in runs:
            start = time.process_time()
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            taken[-1].append(1000 * (time.process_time() - start))
    plain, changed_ms = map(statistics.median, zip(*taken[1:], strict=True))
    low, middle, high = statistics.quantiles([a / b for a, b in taken[1:]], n=4)
    return {
        "arch": arch,
        "size": size,
        "batch": settings.batch,
        "rounds": settings.rounds,
        "plain_ms": round(plain, 1),
        "products_ms": round(changed_ms, 1),
        "ratio": [round(value, 2) for value in (low, middle, high)],
        "torch": torch.__version__,
        "timm": timm.__version__,
        "load": round(os.getloadavg()[0], 1),
        "cpu": next(
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def write_table(records: list[dict[str, Any]]) -> None:
    """Put the newest records into docs/speed.md."""
    lines = ["| | images/s of a core, plain | as products | times as fast (quartiles) |", "|---|---|---|---|"]
    for r in records:
        low, middle, high = r["ratio"]
        speeds = " | ".join(f"{1000 * r['batch'] / r[key]:.0f}" for key in ("plain_ms", "products_ms"))
        lines.append(f"| `{r['arch']}`, {r['size']} px | {speeds} | {middle:.2f} ({low:.2f}–{high:.2f}) |")
    last, loads = records[-1], [r["load"] for r in records]
    lines += [
        "",
        f"Forward, backward and SGD step without data, batch {last['batch']}; median processor time of "
        f"{last['rounds']} steps in turns; channels_last, one thread, seed 0, {last['time'][:10]}; "
        f"torch {last['torch']}, timm {last['timm']}, {last['cpu']} ({last['instructions']}), "
        f"load {min(loads)} to {max(loads)}.",
    ]
    replace_part(DOC, BEGIN, END, lines)


def main(settings: Settings) -> None:
    """Measure, append, write."""
    torch.set_num_threads(1)
    records = [measure(arch, size, settings) for arch in settings.archs for size in settings.sizes]
    for record in records:
        append_record(RESULTS, record)
    write_table(records)


if __name__ == "__main__":
    main(tyro.cli(Settings))
