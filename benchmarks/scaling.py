"""Time train_hf.py in one process and in two, and state what SSIA adds to the gradients that are sent.

    python benchmarks/scaling.py --dataset DATASET    # adds to results/scaling.jsonl, writes docs/scaling.md
    python benchmarks/scaling.py --report             # only the tables

Weak scaling: each process has the same batch, so two do twice the work in a step. Runs of one and of two processes
alternate. A run's rate is that of its steps after the first record, from metrics.jsonl. Each process has one thread.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import timm
import tyro

from ssia_zoo.export.files import versions
from ssia_zoo.task import SSIATask

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "scaling.jsonl"
DOC = ROOT / "docs" / "scaling.md"
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
    """What to measure."""

    arch: str = "resnet18"
    """A timm classifier."""
    dataset: str = "zh-plus/tiny-imagenet"
    """As --dataset of train_hf.py."""
    image_size: int = 64
    """Pixels."""
    batch_size: int = 32
    """Images a process and step."""
    images: int = 640
    """Images that each process trains on in a run."""
    runs: int = 3
    """Runs of one process and as many of two."""
    methods: tuple[str, ...] = ("vanilla", "ssia")
    """Of train_hf.py."""
    report: bool = False
    """Measure nothing, write the tables."""


def sent() -> list[dict[str, Any]]:
    """Parameters of each student and of its heads (default SSIA, 1,000 classes)."""
    rows = []
    for arch, size in ARCHS.items():
        model = timm.create_model(arch)
        heads = SSIATask(model, input_size=(3, size, size)).trainable_module.projection
        count = [sum(p.numel() for p in module.parameters()) for module in (model, heads)]
        rows.append({"arch": arch, "size": size, "student": count[0], "heads": count[1]})
    return rows


def run(settings: Settings, method: str, processes: int, folder: Path) -> dict[str, float]:
    """Images a second over all processes, and processor milliseconds an image, imports and set-up included."""
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
        "--output-dir": folder,
    }
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    words = [sys.executable, *launcher, str(ROOT / "train_hf.py"), *(str(w) for pair in flags.items() for w in pair)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        words,
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    rates = [record["images_per_second"] for record in records if record["kind"] == "train"][1:]
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"images_per_second": statistics.median(rates), "cpu_ms": 1000 * cpu / (settings.images * processes)}


def measure(settings: Settings) -> dict[str, Any]:
    """One record."""
    runs: dict[str, list[dict[str, float]]] = {}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        for index in range(settings.runs):
            for method in settings.methods:
                for processes in (1, 2):
                    name = f"{method} {processes}"
                    runs.setdefault(name, []).append(run(settings, method, processes, Path(folder) / f"{name}_{index}"))
    return {
        "benchmark": "scaling",
        "settings": {**asdict(settings), "dataset": Path(settings.dataset).name},
        "runs": runs,
        "sent": sent(),
        "versions": versions(),
        "machine": {
            "cpu": platform.machine(),
            "cores": os.cpu_count(),
            "load": [round(load, 1), round(os.getloadavg()[0], 1)],
            "shared": True,
        },
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def measured_table(record: dict[str, Any]) -> str:
    """One process beside two, as Markdown."""
    lines = ["| | 1 process, images/s | 2 processes, images/s | of twice the rate |", "|---" * 4 + "|"]
    for method in record["settings"]["methods"]:
        one, two = (
            statistics.median(run["images_per_second"] for run in record["runs"][f"{method} {n}"]) for n in (1, 2)
        )
        lines.append(f"| {method} | {one:.1f} | {two:.1f} | {100 * two / (2 * one):.0f} % |")
    settings, machine = record["settings"], record["machine"]
    runs = "one run each" if settings["runs"] == 1 else f"median of {settings['runs']} runs each"
    lines += [
        "",
        f"`{settings['arch']}` at {settings['image_size']} px, batch {settings['batch_size']} a process, one thread a "
        f"process, {runs}, in turn; {record['time'][:10]}, torch "
        f"{record['versions']['torch']}. The machine has {machine['cores']} cores, for which up to "
        f"{max(machine['load']):.0f} processes competed meanwhile: these rates are of what was left, and their "
        "quotient is not the hardware's.",
    ]
    return "\n".join(lines)


def sent_table(record: dict[str, Any]) -> str:
    """Bytes of gradients, as Markdown."""
    lines = ["| arch, 1,000 classes, 224 px | model's gradients, MB | heads', MB | more |", "|---" * 4 + "|"]
    for row in record["sent"]:
        student, heads = (4 * row[name] / 1e6 for name in ("student", "heads"))
        lines.append(f"| `{row['arch']}` | {student:.1f} | {heads:.1f} | {100 * heads / student:.1f} % |")
    return "\n".join(lines)


def write_tables() -> None:
    """Put the newest record's tables between the marks in docs/scaling.md."""
    record = json.loads(RESULTS.read_text(encoding="utf-8").splitlines()[-1])
    text = DOC.read_text(encoding="utf-8")
    for name, table in (("measured", measured_table(record)), ("sent", sent_table(record))):
        before, rest = text.split(f"<!-- {name}: begin -->")
        after = rest.split(f"<!-- {name}: end -->")[1]
        text = f"{before}<!-- {name}: begin -->\n{table}\n<!-- {name}: end -->{after}"
    DOC.write_text(text, encoding="utf-8")


def main(settings: Settings) -> None:
    """Measure and write."""
    if not settings.report:
        record = measure(settings)
        RESULTS.parent.mkdir(exist_ok=True)
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
    write_tables()


if __name__ == "__main__":
    main(tyro.cli(Settings))
