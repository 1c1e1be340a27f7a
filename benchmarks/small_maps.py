"""Time training steps on a CPU: as torch comes, with small_maps.py's matrix products, and with huge pages besides.

PYTHONPATH=. python benchmarks/small_maps.py       # appends to results/small_maps.jsonl, writes docs/speed.md
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
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

    archs: tuple[str, ...] = ("resnet18", "resnet50", "mobilenetv3_small_100")
    """timm architectures"""
    sizes: tuple[int, ...] = (32, 64)
    """heights and widths, pixels"""
    batch: int = 128
    """images a step"""
    rounds: int = 2
    """times that processes without and with huge pages take turns"""
    steps: int = 3
    """steps of each kind a process times, in turns, after one that is not counted"""


def step_times(arch: str, size: int, settings: Settings) -> list[tuple[float, float]]:
    """Processor time of steps in ms, plain and as products, in this process."""
    torch.set_num_threads(1)
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
    for _ in range(settings.steps + 1):
        taken.append([])
        for model, optimizer in runs:
            start = time.process_time()
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            taken[-1].append(1000 * (time.process_time() - start))
    return [(plain, products) for plain, products in taken[1:]]


def measure(arch: str, size: int, settings: Settings) -> dict[str, Any]:
    """Every step's time of the three ways: plain, products, products with huge pages."""
    times: dict[str, list[float]] = {"plain": [], "products": [], "huge_pages": []}
    for _ in range(settings.rounds):
        for huge_pages in (False, True):
            os.environ["THP_MEM_ALLOC_ENABLE"] = str(int(huge_pages))  # torch reads it once a process
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                taken = pool.submit(step_times, arch, size, settings).result()
            if not huge_pages:
                times["plain"] += [plain for plain, _ in taken]
            times["huge_pages" if huge_pages else "products"] += [products for _, products in taken]
    return {
        "arch": arch,
        "size": size,
        "batch": settings.batch,
        "ms": {way: [round(value, 1) for value in values] for way, values in times.items()},
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
    lines = ["| images/s of a core: median (slowest–fastest step) | plain | products | products, huge pages |"]
    lines.append("|---|---|---|---|")
    for r in records:
        cells = []
        for values in r["ms"].values():
            slow, middle, fast = (1000 * r["batch"] / f(values) for f in (max, statistics.median, min))
            cells.append(f"{middle:.0f} ({slow:.0f}–{fast:.0f})")
        lines.append(f"| `{r['arch']}`, {r['size']} px | {' | '.join(cells)} |")
    last, loads = records[-1], [r["load"] for r in records]
    lines += [
        "",
        f"Forward, backward and SGD step without data, batch {last['batch']}; processor time of "
        f"{len(last['ms']['plain'])} steps; channels_last, one thread, seed 0, {last['time'][:10]}; "
        f"torch {last['torch']}, timm {last['timm']}, {last['cpu']} ({last['instructions']}), "
        f"load {min(loads)} to {max(loads)}.",
    ]
    replace_part(DOC, BEGIN, END, lines)


def main(settings: Settings) -> None:
    """Measure, append, write."""
    records = [measure(arch, size, settings) for arch in settings.archs for size in settings.sizes]
    for record in records:
        append_record(RESULTS, record)
    write_table(records)


if __name__ == "__main__":
    main(tyro.cli(Settings))
