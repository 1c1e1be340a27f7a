"""Time the same backbone as vanilla, SSIA, SE and CBAM, side by side in one run: PyTorch, onnxruntime and OpenVINO.

    python benchmarks/inference.py            # measures, adds to results/inference.jsonl, writes docs/export.md
    python benchmarks/inference.py --report   # only the table

In every round each (runtime, variant) has one turn, in an order that is shuffled anew: whatever else the machine does
strikes all alike. Latency is the median over the rounds, with the quartiles; beside it stands the processor time, which
waiting for other processes does not lengthen. SSIA runs the very graph of vanilla: where the two differ, it is noise.
"""

from __future__ import annotations

import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import tyro
from torch.utils.flop_counter import FlopCounterMode

import ssia_zoo
from ssia_zoo.export.exporter import export_model, load_artefact
from ssia_zoo.version import versions

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "inference.jsonl"
DOC = ROOT / "docs" / "export.md"
BEGIN, END = "<!-- inference: begin -->", "<!-- inference: end -->"
SUFFIX = {"onnx": ".onnx", "openvino": ".xml"}


@dataclass
class Settings:
    """What to measure."""

    arch: str = "resnet18"
    """A timm ResNet: SE and CBAM go into its blocks."""
    image_size: int = 64
    """Pixels."""
    batches: tuple[int, ...] = (1, 32)
    """Images a run."""
    rounds: int = 40
    """Turns of each (runtime, variant)."""
    threads: int = 1
    """Threads of each runtime."""
    seed: int = 0
    """Of weights, images and order."""
    report: bool = False
    """Measure nothing, write the table."""


def variants(settings: Settings) -> dict[str, torch.nn.Module]:
    """The four models, in evaluation mode."""
    ssia_zoo.register(settings.arch)
    blocks = {name: {"block_args": {"attn_layer": name}} for name in ("se", "cbam")}
    made = {
        "vanilla": timm.create_model(settings.arch, num_classes=10),
        "SSIA": timm.create_model(f"{settings.arch}_ssia", num_classes=10),
        "SE": timm.create_model(settings.arch, num_classes=10, **blocks["se"]),
        "CBAM": timm.create_model(settings.arch, num_classes=10, **blocks["cbam"]),
    }
    return {name: model.eval() for name, model in made.items()}


def eager(model: torch.nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    """Run in PyTorch."""

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(images)).numpy()

    return run


def measure(settings: Settings) -> dict[str, Any]:
    """One record: sizes of each variant, and times of each (runtime, variant, batch)."""
    load = os.getloadavg()[0]
    torch.manual_seed(settings.seed)
    torch.set_num_threads(settings.threads)
    models = variants(settings)
    shape = (3, settings.image_size, settings.image_size)
    sizes: dict[str, dict[str, float]] = {}
    runners: dict[tuple[str, str], Callable[[np.ndarray], np.ndarray]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, model in models.items():
            counter = FlopCounterMode(display=False)
            with counter, torch.inference_mode():
                model(torch.zeros(1, *shape))
            sizes[name] = {
                "parameters": sum(p.numel() for p in model.parameters()),
                "flops": counter.get_total_flops(),
            }
            runners["PyTorch", name] = eager(model)
            for target, runtime in (("onnx", "onnxruntime"), ("openvino", "OpenVINO")):
                out = Path(folder) / f"{name}{SUFFIX[target]}"
                result = export_model(target, model, name, out, image_size=settings.image_size, weights="random")
                sizes[name][f"{target}_bytes"] = sum(f["bytes"] for f in result.manifest["files"].values())
                runners[runtime, name] = load_artefact(target, out)
        times = {batch: interleave(runners, batch, shape, settings) for batch in settings.batches}
    return {
        "benchmark": "inference",
        "settings": asdict(settings),
        "sizes": sizes,
        "times_ms": [
            {"batch": batch, "runtime": runtime, "variant": variant, **row}
            for batch, rows in times.items()
            for (runtime, variant), row in rows.items()
        ],
        "versions": versions(),
        "machine": {"cpu": platform.machine(), "cores": os.cpu_count(), "load": load},
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def interleave(
    runners: dict[tuple[str, str], Callable[[np.ndarray], np.ndarray]],
    batch: int,
    shape: tuple[int, int, int],
    settings: Settings,
) -> dict[tuple[str, str], dict[str, float]]:
    """Milliseconds per run of each: median and quartiles over the rounds, and the median of processor time."""
    order = list(runners)
    shuffle = random.Random(settings.seed).shuffle
    images = np.random.default_rng(settings.seed).standard_normal((batch, *shape), dtype=np.float32)
    taken: dict[tuple[str, str], list[float]] = {key: [] for key in order}
    processor: dict[tuple[str, str], list[float]] = {key: [] for key in order}
    for key in order:  # the first run plans memory and picks kernels
        runners[key](images)
    for _ in range(settings.rounds):
        shuffle(order)
        for key in order:
            start, start_cpu = time.perf_counter(), time.process_time()
            runners[key](images)
            processor[key].append(1000 * (time.process_time() - start_cpu))
            taken[key].append(1000 * (time.perf_counter() - start))
    result = {}
    for key, values in taken.items():
        low, middle, high = statistics.quantiles(values, n=4)
        cpu = statistics.median(processor[key])
        result[key] = {"median": middle, "low": low, "high": high, "cpu": cpu}
    return result


def table(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    settings, sizes = record["settings"], record["sizes"]
    names = list(sizes)
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    plain = {"parameters": "parameters", "flops": "FLOPs for an image", "onnx_bytes": "ONNX file, bytes"}
    plain["openvino_bytes"] = "OpenVINO files, bytes"
    for key, title in plain.items():
        lines.append(f"| {title} | " + " | ".join(f"{sizes[name][key]:,}" for name in names) + " |")
    rows = {(r["runtime"], r["batch"], r["variant"]): r for r in record["times_ms"]}
    for runtime, batch in dict.fromkeys((r["runtime"], r["batch"]) for r in record["times_ms"]):
        base = rows[runtime, batch, "vanilla"]["cpu"]
        cells = []
        for name in names:
            row = rows[runtime, batch, name]
            latency = f"{row['median']:.1f} ({row['low']:.1f}–{row['high']:.1f})"
            cells.append(f"{latency}; {row['cpu']:.1f}, × {row['cpu'] / base:.2f}")
        lines.append(f"| {runtime}, batch {batch}, ms | " + " | ".join(cells) + " |")
    machine = record["machine"]
    lines += [
        "",
        f"`{settings['arch']}` at {settings['image_size']} px, {settings['threads']} thread, "
        f"{settings['rounds']} rounds, seed {settings['seed']}, {record['time'][:10]}. A time is the median latency "
        "(quartiles); the processor time, and that as a multiple of vanilla's. The machine "
        f"has {machine['cores']} {machine['cpu']} cores and had a load of {machine['load']:.1f} when this began. SSIA "
        "runs the very graph of vanilla, so what sets those two apart is noise, and what lies within as much of 1 says "
        "nothing. "
        + ", ".join(f"{k} {record['versions'][k]}" for k in ("torch", "timm", "onnxruntime", "openvino"))
        + ".",
    ]
    return "\n".join(lines)


def write_table() -> None:
    """Put the newest record's table between the marks in docs/export.md."""
    record = json.loads(RESULTS.read_text(encoding="utf-8").splitlines()[-1])
    text = DOC.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    DOC.write_text(f"{before}{BEGIN}\n{table(record)}\n{END}{after}", encoding="utf-8")


def main(settings: Settings) -> None:
    """Measure and write."""
    if not settings.report:
        record = measure(settings)
        RESULTS.parent.mkdir(exist_ok=True)
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        print(table(record))
    write_table()


if __name__ == "__main__":
    main(tyro.cli(Settings))
