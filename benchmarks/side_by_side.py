"""Compare two training runs at the same time, with one thread each, with the same two in turn, with two threads.

    python benchmarks/side_by_side.py            # measure, append to results/side_by_side.jsonl, write the table
    python benchmarks/side_by_side.py --report   # only write the table in benchmarks/speed.md

`ssia-zoo arena run --jobs 2` does the first. Elapsed time of the processes, start and evaluation included, on a machine
with two free cores.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import tyro
from recording import (
    BENCHMARKS,
    RESULTS,
    ROOT,
    Record,
    append_record,
    environment,
    in_turns,
    machine_text,
    quartiles,
    read_results,
    replace_table,
)

RECORDS = RESULTS / "side_by_side.jsonl"
REPORT = BENCHMARKS / "speed.md"


@dataclass(frozen=True)
class Case:
    """What both runs train."""

    model: str
    image_size: int
    epochs: int
    batch_size: int = 64


CASES = [Case("resnet18", image_size=32, epochs=1)]


@dataclass(frozen=True)
class Settings:
    """Compare two runs side by side with the same runs in turn."""

    report: bool = False
    """only write the table"""
    rounds: int = 3
    """turns of each"""


def start(case: Case, folder: Path, threads: int) -> subprocess.Popen[bytes]:
    """Start a run on scikit-learn's digits."""
    flags = ["--model", case.model, "--image-size", case.image_size, "--epochs", case.epochs]
    flags += ["--batch-size", case.batch_size, "--dataset", "digits", "--workers", 0, "--val-interval", 0]
    command = [sys.executable, ROOT / "train_hf.py", *flags, "--output-dir", folder]
    environ = {**os.environ, "OMP_NUM_THREADS": str(threads), "ACCELERATE_USE_CPU": "true"}
    return subprocess.Popen(list(map(str, command)), env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def seconds(case: Case, side_by_side: bool) -> float:
    """Return how long two runs take."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        runs = []
        for number in range(2):
            runs.append(start(case, Path(folder) / str(number), threads=1 if side_by_side else 2))
            if not side_by_side:
                runs[-1].wait()
        if any(run.wait() for run in runs):
            sys.exit("a run failed")
    return time.monotonic() - begin


def measure(case: Case, rounds: int) -> Record:
    """Measure both ways in turns."""
    load = os.getloadavg()[0]
    turns = in_turns({way: partial(seconds, case, way) for way in (False, True)}, rounds, warm_up=False)
    return {
        "benchmark": "side_by_side",
        "settings": {**asdict(case), "rounds": rounds, "method": "ssia", "dataset": "digits", "seed": 0},
        "seconds": {"in turn": quartiles(turns[False]), "side by side": quartiles(turns[True])},
        "speedup": quartiles([a / b for a, b in zip(turns[False], turns[True], strict=True)]),
        **environment(load),
    }


def table(records: list[Record]) -> list[str]:
    """Format the newest record of each case as Markdown."""
    lines = [
        "| network | in turn, 2 threads, s | side by side, 1 thread each, s | times as fast |",
        "|---|---|---|---|",
    ]
    for record in records:
        settings = record["settings"]
        spent = [f"{record['seconds'][way][1]:.0f}" for way in ("in turn", "side by side")]
        ratio = "{1:.2f} ({0:.2f}–{2:.2f})".format(*record["speedup"])
        name = f"`{settings['model']}`, {settings['image_size']} px, epochs of digits: {settings['epochs']}"
        lines.append(f"| {name} | {' | '.join(spent)} | {ratio} |")
    last = records[-1]
    rounds = last["settings"]["rounds"]
    about = f"torch {last['versions']['torch']}; {machine_text(last['machine'])}, {last['time'][:10]}"
    return [*lines, "", f"Elapsed time of two runs, median (quartiles) of {rounds} rounds, seed 0; {about}."]


def main(settings: Settings) -> None:
    if not settings.report:
        for case in CASES:
            append_record(RECORDS, measure(case, settings.rounds))
    newest = {record["settings"]["model"]: record for record in read_results(RECORDS)}
    replace_table(REPORT, "side_by_side", table(list(newest.values())))


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
