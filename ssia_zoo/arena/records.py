"""The records of runs: one JSON line each, appended to a file; failures beside it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ssia_zoo.errors import ConfigError

Record = dict[str, Any]

_NEEDED = ("key", "data", "arch", "method", "seed", "evaluated_on", "top1", "subset", "settings")


def append_line(path: Path, record: Record) -> None:
    """Append a record as one JSON line, in one write, so that several processes may append."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def read_records(path: Path) -> dict[str, Record]:
    """Read the records of a file by their keys, oldest first; none if the file does not exist.

    Raises:
        ConfigError: A line is no record of a run.
    """
    return {record["key"]: record for record in _read(path, _NEEDED)}


def failures_path(records: Path) -> Path:
    """Return the file of the runs that failed, beside that of the records."""
    return records.with_name(f"{records.stem}.failures.jsonl")


def record_failure(records: Path, key: str, title: str, reason: str) -> None:
    """Record that a run failed, and why, in one line."""
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    append_line(failures_path(records), {"key": key, "run": title, "reason": reason, "time": when})


def read_failures(records: Path) -> dict[str, str]:
    """Return why runs failed last, by key; a run that was recorded later is no failure."""
    done = read_records(records)
    failed = {failure["key"]: failure["reason"] for failure in _read(failures_path(records), ("key", "reason"))}
    return {key: reason for key, reason in failed.items() if key not in done}


def answers_path(records: Path, key: str) -> Path:
    """Return the file of a run's answers, which `ssia-zoo compare` reads."""
    return records.parent / "answers" / f"{key}.parquet"


def _read(path: Path, needed: Iterable[str]) -> list[Record]:
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
            missing = [name for name in needed if name not in record]
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{path}, line {number}: is not JSON; restore the line or remove it") from error
        if missing:
            raise ConfigError(f"{path}, line {number}: has no {missing[0]}; expected the record of a run")
        found.append(record)
    return found
