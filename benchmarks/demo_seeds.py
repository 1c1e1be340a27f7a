"""Train what `ssia-zoo demo` trains, digits with a third of the labels wrong, with other losses and other seeds.

    python benchmarks/demo_seeds.py run --seeds 0 1 2 3 4 5 6 7 8 9                    # resumes if interrupted
    python benchmarks/demo_seeds.py run --seeds 100 101 102 --evaluate validation     # to choose
    python benchmarks/demo_seeds.py report                                            # write the table of research.md

A seed sets the initial weights, the order of the images, their augmentation, and which labels are wrong and how: all
methods with the same seed learn from the same labels. `validation` is a part of the training images, with the right
labels; the others are trained on. A run is evaluated once, after the last step, and appended to results/demo.jsonl. One
that is recorded with the same settings is not run again.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import datasets
import numpy as np
import torch
import tyro
from recording import BENCHMARKS, RESULTS, append_record, environment, read_results, replace_table

from ssia_zoo.arena.tables import format_interval
from ssia_zoo.cli.demo import METHODS, SETTINGS, write_wrong_labels
from ssia_zoo.data import digits
from ssia_zoo.data.splits import stratified
from ssia_zoo.models.comparison import Comparison, compare
from ssia_zoo.models.weight import PairedRun
from ssia_zoo.training import TrainConfig, train

PATH = RESULTS / "demo.jsonl"
HANDED_OVER = {"labels": 1.0, "handover": True, "weight": 2.0}
COMPARED: dict[str, dict[str, Any]] = {
    "vanilla": METHODS["vanilla"],
    "SSIA + DSN, memory": METHODS["ssia"],
    "DSN": {"method": "dsn", "rival": {"weight": 0.6667}},
    "SSIA + DSN, handed over": {"method": "ssia", "ssia": HANDED_OVER},
    "SSIA, label-free": {"method": "ssia", "ssia": {"labels": 0.0, "weight": 1.0}},
}
VALIDATION_IMAGES = 360
Split = Literal["test", "validation"]
Record = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """Train the seeds that are not recorded yet, one after another on one thread."""

    seeds: tuple[int, ...]
    """seeds"""
    evaluate: Split = "test"
    """images to evaluate on"""
    methods: tuple[str, ...] = field(default_factory=lambda: tuple(COMPARED))
    """methods to train"""


@dataclass(frozen=True)
class Report:
    """Write the table of all seeds into benchmarks/research.md, and print the sentence that the demo quotes."""


def splits(evaluate: Split) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Return the images to train on and those to evaluate on, with the right labels."""
    parts = digits()
    if evaluate == "test":
        return parts["train"], parts["test"]
    held_out = stratified(parts["train"]["label"], VALIDATION_IMAGES)
    return parts["train"].select(np.flatnonzero(~held_out)), parts["train"].select(np.flatnonzero(held_out))


def identity(record: Record) -> tuple[Any, ...]:
    """Return what distinguishes a run from all others."""
    return record["evaluated_on"], record["method"], record["seed"], record["settings"]


def run(arguments: Run) -> None:
    """Train and record what is missing, seed by seed, so that an interrupted series is still paired."""
    known = [identity(record) for record in read_results(PATH)]
    images = splits(arguments.evaluate)
    for seed in arguments.seeds:
        for method in arguments.methods:
            planned = {"evaluated_on": arguments.evaluate, "method": method, "seed": seed}
            planned["settings"] = {**SETTINGS, **COMPARED[method]}
            if identity(planned) in known:
                continue
            record = {**planned, **one_run(planned["settings"], seed, *images)}
            append_record(PATH, record)
            print(arguments.evaluate, seed, method, record["top1"], record["cpu_seconds"], flush=True)


def one_run(settings: Record, seed: int, train_images: datasets.Dataset, images: datasets.Dataset) -> Record:
    """Train one model in a temporary folder and return its result."""
    load, cpu = os.getloadavg()[0], time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "digits-wrong-labels"
        wrong = write_wrong_labels(data, train_images, images, seed)
        places = {"dataset": str(data), "output_dir": f"{folder}/run", "val_interval": 0, "checkpoint_every": 10**6}
        result = train(TrainConfig(**settings, **places, seed=seed))
    return {
        "top1": round(result.metrics["top1"], 4),
        "images": len(images),
        "train_images": len(train_images),
        "wrong_labels": wrong,
        "threads": torch.get_num_threads(),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "command": " ".join(["python", "benchmarks/demo_seeds.py", *sys.argv[1:]]),
        **environment(load),
    }


def results(evaluate: Split) -> dict[str, dict[int, float]]:
    """Return the recorded top-1 of the demo's present settings, by method and seed."""
    found: dict[str, dict[int, float]] = {}
    for record in read_results(PATH):
        method = record["method"]
        if record["evaluated_on"] == evaluate and record["settings"] == {**SETTINGS, **COMPARED.get(method, {})}:
            found.setdefault(method, {})[record["seed"]] = record["top1"]
    return found


def against(control: dict[int, float], other: dict[int, float]) -> Comparison:
    """Compare the seeds that both have."""
    seeds = sorted(control.keys() & other.keys())
    return compare([PairedRun(seed=seed, ssia=other[seed], vanilla=control[seed]) for seed in seeds])


def quoted() -> str:
    """Return the sentence about the test images that the demo prints."""
    found = results("test")
    compared = against(found["vanilla"], found["SSIA + DSN, memory"])
    return (
        f"{compared.seeds} recorded seeds with {SETTINGS['epochs']} epochs: SSIA minus vanilla "
        f"{compared.difference:+.2f} points (95 % interval {format_interval(compared.interval)}); see "
        "benchmarks/research.md, entry 20"
    )


def table() -> Iterator[str]:
    """Yield a Markdown table with every seed on the test images."""
    found = results("test")
    seeds = sorted({seed for scores in found.values() for seed in scores})
    names = [method for method in COMPARED if method in found]
    yield f"| seed | {' | '.join(names)} |"
    yield "|---" * (len(names) + 1) + "|"
    for seed in seeds:
        yield f"| {seed} | {' | '.join(f'{found[n][seed]:.2f}' if seed in found[n] else '–' for n in names)} |"
    yield f"| mean | {' | '.join(f'{mean(found[name].values()):.2f}' for name in names)} |"
    for control in ("vanilla", "DSN"):
        if control in found:
            cells = [_difference(found[control], found[name]) if name != control else "–" for name in names]
            yield f"| minus {control}, paired (95 % interval) | {' | '.join(cells)} |"


def _difference(control: dict[int, float], other: dict[int, float]) -> str:
    compared = against(control, other)
    return f"{compared.difference:+.2f} ({format_interval(compared.interval)})"


def main(arguments: Run | Report) -> None:
    """Run or report."""
    if isinstance(arguments, Run):
        torch.set_num_threads(1)
        run(arguments)
        return
    replace_table(BENCHMARKS / "research.md", "demo test", list(table()))
    print(f"RECORDED in ssia_zoo/cli/demo.py: {quoted()}")


if __name__ == "__main__":
    main(tyro.cli(Run | Report, description=__doc__))  # type: ignore[arg-type]  # tyro takes unions
