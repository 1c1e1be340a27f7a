"""Compare inference time of a backbone as vanilla, SSIA, SE and CBAM in PyTorch, onnxruntime and OpenVINO.

    python benchmarks/inference.py            # measure, append to results/inference.jsonl, write the table
    python benchmarks/inference.py --report   # only write the table in docs/export.md

All (runtime, variant) pairs take turns in a shuffled order, so that other load affects them alike. The table gives the
median latency over the rounds with its quartiles, and the CPU time, which does not include waiting for other processes.
SSIA and vanilla run the same graph: differences between them are noise.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import timm
import torch
import tyro
from recording import (
    DOCS,
    RESULTS,
    Record,
    append_record,
    environment,
    in_turns,
    machine_text,
    read_results,
    replace_table,
    timed,
)
from torch.utils.flop_counter import FlopCounterMode

import ssia_zoo
from ssia_zoo.export.exporter import export_model, load_artefact

RECORDS = RESULTS / "inference.jsonl"
REPORT = DOCS / "export.md"
SUFFIX = {"onnx": ".onnx", "openvino": ".xml"}


@dataclass
class Settings:
    """Compare inference time of a backbone as vanilla, SSIA, SE and CBAM."""

    arch: str = "resnet18"
    """timm ResNet; SE and CBAM are added to its blocks"""
    image_size: int = 64
    """height and width in pixels"""
    batches: tuple[int, ...] = (1, 32)
    """batch sizes"""
    rounds: int = 40
    """turns of each (runtime, variant)"""
    threads: int = 1
    """threads of each runtime"""
    seed: int = 0
    """seed of weights, images and order"""
    report: bool = False
    """only write the table"""


def variants(settings: Settings) -> dict[str, torch.nn.Module]:
    """Create the four models in evaluation mode."""
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
    """Return a function that runs the model in PyTorch."""

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(images)).numpy()

    return run


def measure(settings: Settings) -> Record:
    """Return the sizes of each variant and the times of each (runtime, variant, batch size)."""
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
        times = {batch: time_batch(runners, (batch, *shape), settings) for batch in settings.batches}
    return {
        "benchmark": "inference",
        "settings": asdict(settings),
        "sizes": sizes,
        "times_ms": [
            {"batch": batch, "runtime": runtime, "variant": variant, **row}
            for batch, rows in times.items()
            for (runtime, variant), row in rows.items()
        ],
        **environment(load),
    }


def time_batch(
    runners: dict[tuple[str, str], Callable[[np.ndarray], np.ndarray]], shape: tuple[int, ...], settings: Settings
) -> dict[tuple[str, str], dict[str, float]]:
    """Return milliseconds per batch of each runner: median and quartiles of wall time, median CPU time."""
    images = np.random.default_rng(settings.seed).standard_normal(shape, dtype=np.float32)
    functions = {key: timed(partial(run, images)) for key, run in runners.items()}
    result = {}
    for key, turns in in_turns(functions, settings.rounds, settings.seed).items():
        low, middle, high = statistics.quantiles([1000 * turn.wall for turn in turns], n=4)
        cpu = statistics.median(1000 * turn.cpu for turn in turns)
        result[key] = {"median": middle, "low": low, "high": high, "cpu": cpu}
    return result


def table(record: Record) -> list[str]:
    """Format the record as Markdown."""
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
    versions = ", ".join(f"{k} {record['versions'][k]}" for k in ("torch", "timm", "onnxruntime", "openvino"))
    lines += [
        "",
        f"`{settings['arch']}` at {settings['image_size']} px, {settings['threads']} thread, "
        f"{settings['rounds']} rounds, seed {settings['seed']}, {record['time'][:10]}; "
        f"{machine_text(record['machine'])}; {versions}. Each cell: median latency (quartiles); CPU time, × vanilla's. "
        "SSIA and vanilla run the same graph: the difference between them is noise, and shows how large "
        "a difference must be to mean something.",
    ]
    return lines


def main(settings: Settings) -> None:
    if not settings.report:
        append_record(RECORDS, measure(settings))
    replace_table(REPORT, "inference", table(read_results(RECORDS)[-1]))


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
