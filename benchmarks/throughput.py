"""Time whole training steps, data included: train_hf.py, the loop of timm's train.py, and a bare PyTorch step.

    python benchmarks/throughput.py --dataset DATASET    # adds to results/throughput.jsonl, writes docs/speed.md
    python benchmarks/throughput.py --report             # only the tables

Each loop runs, vanilla and with SSIA, in a process of its own (benchmarks/_loops.py). In every round each process has
one turn, in an order that is shuffled anew, while the others wait: whatever else the machine does strikes all alike. A
ratio is taken within a round; the median over the rounds is given, with the quartiles. Beside the time that passed
stands the processor time, which waiting for other people's processes does not lengthen.

Peak memory is measured apart, in fresh processes whose allocator gives every freed tensor back at once, so that the
peak is of what was alive; what a process had before its loop began is subtracted.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import random
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro
from _loops import LOOPS, METHODS, PHASES, Setup, run_in_turns

from ssia_zoo.version import versions

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "throughput.jsonl"
DOC = ROOT / "docs" / "speed.md"
BEGIN, END = "<!-- throughput: begin -->", "<!-- throughput: end -->"
PAIRS = {
    "ours / timm, vanilla": (["ours vanilla"], ["timm vanilla"]),
    "ours / timm, SSIA": (["ours ssia"], ["timm ssia"]),
    "ours / timm, both": (["ours vanilla", "ours ssia"], ["timm vanilla", "timm ssia"]),
    "ours / bare, both": (["ours vanilla", "ours ssia"], ["bare vanilla", "bare ssia"]),
    "SSIA / vanilla, ours": (["ours ssia"], ["ours vanilla"]),
    "SSIA / vanilla, all loops": ([f"{loop} ssia" for loop in LOOPS], [f"{loop} vanilla" for loop in LOOPS]),
}
_SHARED = ("arch", "dataset", "image_size", "batch_size", "seed", "threads", "steps")

Turn = dict[str, float]


@dataclass
class Settings:
    """What to measure."""

    arch: str = "resnet18"
    """A timm classifier."""
    dataset: str = "zh-plus/tiny-imagenet"
    """As --dataset of train_hf.py; its training split must outlast the measurement."""
    image_size: int = 64
    """Pixels."""
    batch_size: int = 32
    """Images a step."""
    rounds: int = 20
    """Turns of each process."""
    steps: int = 1
    """Optimizer steps a turn."""
    threads: int = 1
    """Threads of each process."""
    seed: int = 0
    """Of weights, data order and turns."""
    memory_turns: int = 3
    """Turns of each process that memory is measured of; 0 leaves memory out."""
    report: bool = False
    """Measure nothing, write the tables."""


class Process:
    """One loop, stopped between its turns."""

    def __init__(self, name: str, setup: Setup, free_at_once: bool = False) -> None:
        fork = multiprocessing.get_context("fork")
        self.name = name
        self.log = Path(setup.folder) / f"{name}.log"
        self.pipe, theirs = fork.Pipe()
        self.process = fork.Process(
            target=run_in_turns, args=(*name.split(), setup, theirs, str(self.log), free_at_once), daemon=True
        )
        self.process.start()
        theirs.close()

    def result(self) -> Turn:
        """What the turn took, once it is over; milliseconds a step, and MB."""
        try:
            turn: Turn = self.pipe.recv()
        except EOFError:
            raise SystemExit(f"{self.name} ended: {self.log.read_text()[-2000:]}") from None
        return turn

    def turn(self) -> Turn:
        """Let it have one."""
        self.pipe.send(True)
        return self.result()

    def close(self) -> None:
        """End it."""
        if self.process.is_alive():
            self.pipe.send(False)
        self.process.join()


def measure(settings: Settings) -> dict[str, Any]:
    """One record: every turn's milliseconds a step of each (loop, method), and the peaks of memory."""
    names = [f"{loop} {method}" for loop in LOOPS for method in METHODS]
    shuffle = random.Random(settings.seed).shuffle
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        shared = {name: getattr(settings, name) for name in _SHARED}
        setup = Setup(**shared, folder=folder)
        processes = {name: Process(name, setup) for name in names}
        for process in processes.values():
            process.result()  # the first turn plans memory and picks kernels
        turns: dict[str, list[Turn]] = {name: [] for name in names}
        for _ in range(settings.rounds):
            shuffle(names)
            for name in names:
                turns[name].append(processes[name].turn())
        for process in processes.values():
            process.close()
        memory = {name: peak(name, setup, settings.memory_turns) for name in processes if settings.memory_turns}
    ordered = list(processes)
    return {
        "benchmark": "throughput",
        "settings": {**asdict(settings), "dataset": Path(settings.dataset).name},
        "steps": {name: summary(turns[name]) for name in ordered},
        "ratios": {
            title: {clock: spread(ratios(turns, above, below, clock)) for clock in ("wall", "cpu")}
            for title, (above, below) in PAIRS.items()
        },
        "cpu_ms": {name: [round(turn["cpu"], 1) for turn in turns[name]] for name in ordered},
        "memory": memory,
        "versions": versions(),
        "machine": {
            "cpu": platform.machine(),
            "cores": os.cpu_count(),
            "load": [round(load, 1), round(os.getloadavg()[0], 1)],
            "shared": True,
        },
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def ratios(turns: dict[str, list[Turn]], above: list[str], below: list[str], clock: str) -> list[float]:
    """What some processes took, as a multiple of what others did, round by round."""
    rounds = range(len(turns[above[0]]))
    return [sum(turns[n][r][clock] for n in above) / sum(turns[n][r][clock] for n in below) for r in rounds]


def peak(name: str, setup: Setup, turns: int) -> float:
    """MB that the loop needs at most."""
    process = Process(name, setup, free_at_once=True)
    needed = process.result()["peak_mb"]
    for _ in range(turns - 1):
        needed = process.turn()["peak_mb"]
    process.close()
    return round(needed, 1)


def summary(turns: list[Turn]) -> dict[str, float]:
    """Median of each time over the rounds."""
    return {name: round(statistics.median(turn[name] for turn in turns), 3) for name in ("wall", "cpu", *PHASES)}


def spread(values: list[float]) -> list[float]:
    """First quartile, median, third quartile."""
    return [round(value, 4) for value in statistics.quantiles(values, n=4)]


def table(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    settings, machine = record["settings"], record["machine"]
    lines = [
        f"### `{settings['arch']}` at {settings['image_size']} px, batch {settings['batch_size']}",
        "",
        "| ratio: median (quartiles) | processor time | time that passed |",
        "|---|---|---|",
    ]
    for title, clocks in record["ratios"].items():
        cells = [f"{middle:.3f} ({low:.2f}–{high:.2f})" for low, middle, high in (clocks["cpu"], clocks["wall"])]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    lines += ["", "| processor time, ms a step | all | " + " | ".join(PHASES) + " |", "|---" * 8 + "|"]
    for name, step in record["steps"].items():
        lines.append(f"| {name} | " + " | ".join(f"{step[phase]:.1f}" for phase in ("cpu", *PHASES)) + " |")
    if memory := record["memory"]:
        ours = memory["ours ssia"] / memory["ours vanilla"]
        told = ", ".join(f"{name} {value:.0f}" for name, value in memory.items())
        lines += ["", f"Peak memory over what was there before the loop, MB: {told}; SSIA / vanilla, ours: {ours:.3f}."]
    rounds = f"{settings['rounds']} rounds of {settings['steps']} step, {settings['threads']} thread"
    builds = f"torch {record['versions']['torch']}, timm {record['versions']['timm']}"
    load = " to ".join(str(value) for value in machine["load"])
    lines += [
        "",
        f"{settings['dataset']}, {rounds}, seed {settings['seed']}, {record['time'][:10]}; {builds}; "
        f"{machine['cores']} {machine['cpu']} cores, load {load}. A ratio that differs from 1 by less than its "
        "quartiles span says nothing.",
    ]
    return "\n".join(lines)


def write_tables() -> None:
    """Put the newest record of each architecture between the marks in docs/speed.md."""
    records = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
    newest = {record["settings"]["arch"]: record for record in records}
    text = DOC.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    tables = "\n\n".join(table(record) for record in newest.values())
    DOC.write_text(f"{before}{BEGIN}\n{tables}\n{END}{rest.split(END)[1]}", encoding="utf-8")


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
