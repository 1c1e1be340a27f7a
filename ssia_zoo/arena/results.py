"""The runs of a plan: what is recorded, and what is missing and why."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssia_zoo.arena.plan import Cell, Plan
from ssia_zoo.arena.records import Record, answers_path, read_failures, read_records
from ssia_zoo.arena.tuning import Choice, choices, schedule
from ssia_zoo.errors import DataError
from ssia_zoo.evaluation.answers import Answers, read_answers
from ssia_zoo.evaluation.paired import same_images

Group = dict[str, dict[Any, Record]]
"""Records by method and seed."""


@dataclass(frozen=True)
class Results:
    """What is recorded of a plan."""

    plan: Plan
    runs: tuple[Record, ...]
    """In the plan's order and with its names, whichever plan they were run for."""
    missing: tuple[tuple[str, str], ...]
    """Runs that are not recorded, and why."""
    failed: Mapping[tuple[str, str, str], int]
    """Runs that failed and are not recorded, by (data, arch, method)."""
    choices: tuple[Choice, ...]
    records: Path


def read_results(plan: Plan, records: Path) -> Results:
    """Return what is recorded of a plan.

    Args:
        plan: From `read_plan`.
        records: The file of records.

    Raises:
        ConfigError: The file cannot be used.
    """
    known, failed = read_records(records), read_failures(records)
    found = schedule(plan, known)
    runs = [_named(known[cell.key], cell) for cell in found.cells if cell.key in known]
    missing = [
        (cell.title, f"failed: {failed[cell.key]}" if cell.key in failed else "not run")
        for cell in (*found.tries, *found.cells)
        if cell.key not in known
    ]
    missing += [(cell.title, "its tries have not all run") for cell in found.undecided]
    by_method = Counter((cell.data, cell.arch, cell.method) for cell in found.cells if cell.key in failed)
    return Results(plan, tuple(runs), tuple(missing), by_method, tuple(choices(plan, known)), records)


def count_failed(results: Results, data: str, arch: str, method: str) -> int:
    """Return how many runs of a method and of the control failed in a cell; their seeds are not compared."""
    return sum(results.failed.get((data, arch, name), 0) for name in (method, results.plan.control))


def _named(record: Record, cell: Cell) -> Record:
    return {**record, "data": cell.data, "arch": cell.arch, "method": cell.method}


def groups(runs: Sequence[Record]) -> dict[tuple[str, str], Group]:
    """Group runs by (data, arch), then method, then seed."""
    found: dict[tuple[str, str], Group] = defaultdict(lambda: defaultdict(dict))
    for run in runs:
        found[run["data"], run["arch"]][run["method"]][run["seed"]] = run
    return found


def paired_seeds(group: Group, method: str, control: str) -> list[Any]:
    """Return the seeds that a method and the control both have."""
    return sorted(group.get(method, {}).keys() & group.get(control, {}).keys())


def paired_answers(
    records: Path, method: Mapping[Any, Record], control: Mapping[Any, Record]
) -> list[tuple[Answers, Answers]] | None:
    """Return the answers of a method and of the control for each seed that both have.

    Returns:
        None if a run's answers are not stored, or are answers to other images.
    """
    found = []
    for seed in sorted(method.keys() & control.keys()):
        paths = [answers_path(records, runs[seed].get("key", "")) for runs in (method, control)]
        if not all(path.is_file() for path in paths):
            return None
        own, its = (read_answers(path) for path in paths)
        try:
            found.append((same_images(its, own), its))
        except DataError:
            return None
    return found or None
