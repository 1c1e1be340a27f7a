"""Measure weak scaling of train_hf.py from one process to two, and the gradients that SSIA adds to the all-reduce.

    python benchmarks/scaling.py --dataset DATASET    # measure, append to results/scaling.jsonl, write the tables
    python benchmarks/scaling.py --report             # only write the tables in benchmarks/scaling.md

The batch size per process is constant, so two processes do twice the work in a step. Runs of one and two processes take
turns. A run's rate is the median of metrics.jsonl without its first record. Each process has one thread.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import timm
import tyro
from recording import (
    BENCHMARKS,
    METHODS,
    RESULTS,
    ROOT,
    Record,
    append_record,
    environment,
    in_turns,
    machine_text,
    read_results,
    replace_table,
)

from ssia_zoo.task import SSIATask
from ssia_zoo.training.metrics import read_records

RECORDS = RESULTS / "scaling.jsonl"
REPORT = BENCHMARKS / "scaling.md"
ARCHS = {
    "mobilenetv3_large_100": 224,
    "resnet18": 224,
    "resnet50": 224,
    "convnext_tiny": 224,
    "vit_small_patch16_224": 224,
    "vit_base_patch16_224": 224,
}


@dataclass
class Settings:
    """Measure weak scaling of train_hf.py from one process to two."""

    arch: str = "resnet18"
    """timm architecture"""
    dataset: str = "zh-plus/tiny-imagenet"
    """--dataset of train_hf.py"""
    image_size: int = 64
    """height and width in pixels"""
    batch_size: int = 32
    """images per process and step"""
    images: int = 640
    """training images per process and run"""
    runs: int = 3
    """runs of one process and of two"""
    methods: tuple[str, ...] = METHODS
    """methods of train_hf.py"""
    report: bool = False
    """only write the tables"""


def sent() -> list[Record]:
    """Return the parameters of each student and of its heads (default SSIA, 1,000 classes)."""
    rows = []
    for arch, size in ARCHS.items():
        model = timm.create_model(arch)
        heads = SSIATask(model, input_size=(3, size, size)).trainable_module.projection
        count = [sum(p.numel() for p in module.parameters()) for module in (model, heads)]
        rows.append({"arch": arch, "size": size, "student": count[0], "heads": count[1]})
    return rows


def run(settings: Settings, method: str, processes: int) -> dict[str, float]:
    """Return images per second over all processes, and CPU milliseconds per image, imports and setup included."""
    flags = {
        "--model": settings.arch,
        "--dataset": settings.dataset,
        "--image-size": settings.image_size,
        "--batch-size": settings.batch_size,
        "--method": method,
        "--max-train-images": settings.images * processes,
        "--max-eval-images": 2,
        "--workers": 0,
        "--epochs": 1,
    }
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes, ROOT / "train_hf.py"]
    variables = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, *launcher, *chain(*flags.items()), "--output-dir", f"{folder}/run"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([*map(str, command)], env=variables, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        records = read_records(Path(folder) / "run" / "metrics.jsonl")
    rates = [record["images_per_second"] for record in records if record["kind"] == "train"][1:]
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"images_per_second": statistics.median(rates), "cpu_ms": 1000 * cpu / (settings.images * processes)}


def measure(settings: Settings) -> Record:
    load = os.getloadavg()[0]
    functions = {
        f"{method} {processes}": partial(run, settings, method, processes)
        for method in settings.methods
        for processes in (1, 2)
    }
    return {
        "benchmark": "scaling",
        "settings": {**asdict(settings), "dataset": Path(settings.dataset).name},
        "runs": in_turns(functions, settings.runs, warm_up=False),
        "sent": sent(),
        **environment(load),
    }


def measured_table(record: Record) -> list[str]:
    """Format the rates of one process and of two as Markdown."""
    lines = ["| | 1 process, images/s | 2 processes, images/s | of twice the rate |", "|---" * 4 + "|"]
    for method in record["settings"]["methods"]:
        one, two = (
            statistics.median(run["images_per_second"] for run in record["runs"][f"{method} {n}"]) for n in (1, 2)
        )
        lines.append(f"| {method} | {one:.1f} | {two:.1f} | {100 * two / (2 * one):.0f} % |")
    settings = record["settings"]
    runs = "one run each" if settings["runs"] == 1 else f"median of {settings['runs']} runs each"
    lines += [
        "",
        f"`{settings['arch']}` at {settings['image_size']} px, batch {settings['batch_size']} per process, one thread "
        f"per process, {runs}, in turns; {record['time'][:10]}, torch {record['versions']['torch']}; "
        f"{machine_text(record['machine'])}. Other processes used the machine at the same time, so the rates and their "
        "ratio are not those of the hardware.",
    ]
    return lines


def sent_table(record: Record) -> list[str]:
    """Format the bytes of gradients as Markdown."""
    lines = ["| arch, 1,000 classes, 224 px | model's gradients, MB | heads', MB | more |", "|---" * 4 + "|"]
    for row in record["sent"]:
        student, heads = (4 * row[name] / 1e6 for name in ("student", "heads"))
        lines.append(f"| `{row['arch']}` | {student:.1f} | {heads:.1f} | {100 * heads / student:.1f} % |")
    return lines


def main(settings: Settings) -> None:
    if not settings.report:
        append_record(RECORDS, measure(settings))
    record = read_results(RECORDS)[-1]
    replace_table(REPORT, "measured", measured_table(record))
    replace_table(REPORT, "sent", sent_table(record))


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
