"""Shared by the benchmarks: time in turns, append results as JSON lines, write tables into Markdown files."""

from __future__ import annotations

import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ssia_zoo.version import versions

BENCHMARKS = Path(__file__).resolve().parent
ROOT = BENCHMARKS.parent
RESULTS = BENCHMARKS / "results"
DOCS = ROOT / "docs"
METHODS = ("vanilla", "ssia")

Record = dict[str, Any]
Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")


# -- timing


class Seconds(NamedTuple):
    """Duration of one call: elapsed time, and CPU time of this process."""

    wall: float
    cpu: float


def timed(function: Callable[[], object]) -> Callable[[], Seconds]:
    """Return a function that calls `function` and returns how long that took."""

    def call() -> Seconds:
        wall, cpu = time.perf_counter(), time.process_time()
        function()
        return Seconds(time.perf_counter() - wall, time.process_time() - cpu)

    return call


def in_turns(
    functions: Mapping[Key, Callable[[], Result]], rounds: int, seed: int = 0, warm_up: bool = True
) -> dict[Key, list[Result]]:
    """Call every function once a round, in an order shuffled each round, so that other load affects all of them alike.

    Args:
        functions: What to compare.
        rounds: Recorded calls of each function.
        seed: Of the order.
        warm_up: Call each function once before, unrecorded: first calls fill caches and choose kernels.

    Returns:
        Results of each function, in the order of the rounds.
    """
    results: dict[Key, list[Result]] = {key: [] for key in functions}
    order = list(functions)
    shuffle = random.Random(seed).shuffle
    for key in order if warm_up else ():
        functions[key]()
    for _ in range(rounds):
        shuffle(order)
        for key in order:
            results[key].append(functions[key]())
    return results


def quartiles(values: Sequence[float], digits: int = 4) -> list[float]:
    """Return first quartile, median and third quartile, rounded."""
    return [round(value, digits) for value in statistics.quantiles(values, n=4)]


# -- results


def environment(load_before: float, packages: Sequence[str] | None = None) -> Record:
    """Describe where and when a measurement was made, for its record.

    Args:
        load_before: Load average when the measurement began.
        packages: Packages whose versions to record; by default those that take part in training and export.
    """
    return {
        "versions": versions(packages) if packages else versions(),
        "machine": {
            "cpu": platform.machine(),
            "cores": os.cpu_count(),
            "load": [round(load, 1) for load in (load_before, os.getloadavg()[0])],
        },
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def machine_text(machine: Record | str) -> str:
    """Describe the machine of a record in words; records of older versions hold a text or a single load."""
    if isinstance(machine, str):
        return machine
    loads = machine["load"] if isinstance(machine["load"], list) else [machine["load"]]
    return f"{machine['cores']} {machine['cpu']} cores, load {' to '.join(f'{load:.1f}' for load in loads)}"


def append_record(path: Path, record: Record) -> None:
    """Append a record as one JSON line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def read_results(path: Path) -> list[Record]:
    """Read all records of a file of JSON lines, oldest first; none if the file does not exist."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


# -- tables


def replace_table(path: Path, name: str, lines: Sequence[str]) -> None:
    """Replace what stands between `<!-- NAME: begin -->` and `<!-- NAME: end -->` in a Markdown file."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, rest = path.read_text(encoding="utf-8").split(begin)
    after = rest.split(end)[1]
    path.write_text(f"{before}{begin}\n" + "\n".join(lines) + f"\n{end}{after}", encoding="utf-8", newline="\n")
