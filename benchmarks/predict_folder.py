"""Time predictions for a folder of photographs: the model alone, reading in its process, reading in worker processes.

    OMP_NUM_THREADS=1 python benchmarks/predict_folder.py

The photographs are generated JPEGs of 512x384 pixels; the models have random weights and take 224 pixels. The three
take turns. Elapsed time depends on the cores that are free; the CPU time of the model's own process shows what the
workers take off it. The result is appended to results/predict_folder.jsonl, and the table in speed.md is replaced.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import timm
import torch
import tyro
from photos import SIZE, photographs
from recording import (
    BENCHMARKS,
    RESULTS,
    Record,
    Seconds,
    append_record,
    environment,
    in_turns,
    machine_text,
    quartiles,
    read_results,
    replace_table,
    timed,
)

from ssia_zoo.inference.classifier import Classifier

FILE = RESULTS / "predict_folder.jsonl"
BATCH = 16
COMPARED = ("one process", "workers")


def unreadable(path: Path, reason: str) -> None:
    raise RuntimeError(f"{path}: {reason}")


def functions(classifier: Classifier, paths: list[Path], workers: int) -> dict[str, Callable[[], object]]:
    """Return what is timed; each processes as many images."""
    ready = [images for _, images in classifier.batches(paths[:BATCH], unreadable, batch_size=BATCH, workers=0)]
    batches = [ready[0][: len(paths[start : start + BATCH])] for start in range(0, len(paths), BATCH)]
    predict = partial(classifier.predict, paths, unreadable, batch_size=BATCH)
    return {
        "model": lambda: [classifier.probabilities(images) for images in batches],
        "one process": lambda: list(predict(workers=0)),
        "workers": lambda: list(predict(workers=workers)),
    }


def measure(name: str, paths: list[Path], workers: int, rounds: int) -> Record:
    load = os.getloadavg()[0]
    classifier = Classifier(timm.create_model(name))
    times = in_turns({key: timed(call) for key, call in functions(classifier, paths, workers).items()}, rounds)
    images_per_second = {key: [len(paths) / turn.wall for turn in turns] for key, turns in times.items()}
    return {
        "benchmark": "predict_folder",
        "model": name,
        "input_size": classifier.input_size,
        "device": classifier.device.type,
        "threads": torch.get_num_threads(),
        "images": len(paths),
        "pixels": SIZE,
        "mean_bytes": round(statistics.fmean(path.stat().st_size for path in paths)),
        "batch_size": BATCH,
        "workers": workers,
        "rounds": rounds,
        "images_per_second": {key: quartiles(speeds, 1) for key, speeds in images_per_second.items()},
        "wall_over_model": {key: quartiles(over_model(times, key, "wall"), 3) for key in COMPARED},
        "process_cpu_over_model": {key: quartiles(over_model(times, key, "cpu"), 3) for key in COMPARED},
        **environment(load, ("pillow", "timm", "torch", "torchvision", "ssia-zoo")),
    }


def over_model(times: dict[str, list[Seconds]], key: str, clock: str) -> list[float]:
    """Return a function's time divided by that of the model alone, for each round."""
    return [
        getattr(turn, clock) / getattr(model, clock) for turn, model in zip(times[key], times["model"], strict=True)
    ]


def table(records: list[Record]) -> list[str]:
    """Return the last record of each model as a Markdown table."""
    last = {record["model"]: record for record in records}
    lines = [
        "| model | reading | images/s | elapsed time / model alone | CPU time of the model's process / model alone |",
        "|---|---|---|---|---|",
    ]
    for name, record in last.items():
        speeds = {key: f"{middle:.1f}" for key, (_, middle, _) in record["images_per_second"].items()}
        lines.append(f"| `{name}` | none: tensors are ready | {speeds['model']} | 1 | 1 |")
        for key, text in zip(COMPARED, ("`--workers 0`", f"`--workers {record['workers']}`"), strict=True):
            ratios = [
                f"{middle:.2f} ({low:.2f}–{high:.2f})"
                for low, middle, high in (record["wall_over_model"][key], record["process_cpu_over_model"][key])
            ]
            lines.append(f"| `{name}` | {text} | {speeds[key]} | {' | '.join(ratios)} |")
    for name, record in last.items():
        lines += [
            "",
            f"`{name}`: medians (quartiles) of {record['rounds']} rounds of {record['images']} images in batches of "
            f"{record['batch_size']}; {record['device']}, {record['threads']} thread; torch "
            f"{record['versions']['torch']}; {machine_text(record['machine'])}; {record['time'][:10]}.",
        ]
    return lines


def main(
    models: tuple[str, ...] = ("mobilenetv3_small_100", "resnet18"),
    images: int = 192,
    rounds: int = 7,
    workers: int = 2,
) -> None:
    """Time predictions for a folder.

    Args:
        models: timm names.
        images: Number of photographs.
        rounds: Calls of each function that count.
        workers: Worker processes.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = photographs(Path(folder), images)
        for name in models:
            record = measure(name, paths, workers, rounds)
            append_record(FILE, record)
            print(record, flush=True)
    replace_table(BENCHMARKS / "speed.md", "predict_folder", table(read_results(FILE)))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
