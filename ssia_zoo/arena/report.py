"""Write what is recorded of plans: a page, CSV files and plots."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ssia_zoo.arena.figures import draw
from ssia_zoo.arena.leaderboard import leaderboard, verdict
from ssia_zoo.arena.records import Record
from ssia_zoo.arena.results import Results, count_failed, groups
from ssia_zoo.arena.tables import compare_cell, results_section
from ssia_zoo.errors import ConfigError
from ssia_zoo.figures import can_draw
from ssia_zoo.files import atomic_write

PAGE, RUNS, COMPARISONS = "report.md", "runs.csv", "comparisons.csv"

_RUN_COLUMNS = (
    *("plan", "data", "arch", "method", "seed", "evaluated_on", "images", "top1", "top5", "loss", "train_task_loss"),
    *("steps", "seconds", "memory_mb", "gpu_memory_mb", "gradient_mb", "initial_weights", "data_order", "key"),
)


def write_report(found: Sequence[Results], folder: Path) -> list[Path]:
    """Write report.md, runs.csv, comparisons.csv and a plot for each plan that can be compared.

    Args:
        found: Of one or more plans.
        folder: Created if it does not exist; files of these names are replaced.

    Returns:
        The files.

    Raises:
        ConfigError: The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"`output` {folder}: cannot be written ({error.strerror}); choose another") from error
    parts = ["# Comparison of methods", "", *leaderboard(found), ""]
    pictures = []
    for results in found:
        parts.append(results_section(results))
        picture = folder / picture_name(results.plan.name)
        if results.runs and can_draw() and draw(results.runs, picture, results.plan.control):
            parts.append(f"![paired differences of {results.plan.name}]({picture.name})\n")
            pictures.append(picture)
    page, runs, comparisons = (folder / name for name in (PAGE, RUNS, COMPARISONS))
    with atomic_write(page) as temporary:
        temporary.write_text("\n".join(parts), encoding="utf-8")
    _write_csv(runs, _RUN_COLUMNS, (_run(results.plan.name, run) for results in found for run in results.runs))
    rows = [row for results in found for row in _comparisons(results)]
    _write_csv(comparisons, tuple(rows[0]) if rows else ("plan",), rows)
    return [page, runs, comparisons, *pictures]


def picture_name(plan: str) -> str:
    """Return the file name of a plan's plot."""
    return re.sub(r"[^\w.-]+", "_", plan) + ".png"


def replace_between(page: Path, name: str, lines: Iterable[str]) -> None:
    """Replace what is between `<!-- NAME: begin -->` and `<!-- NAME: end -->` in a Markdown file.

    Raises:
        ConfigError: The file cannot be read, or has no such marks.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    try:
        before, rest = page.read_text(encoding="utf-8").split(begin)
        _, after = rest.split(end)
    except OSError as error:
        raise ConfigError(f"{page}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ConfigError(f"{page}: expected {begin} and {end} once each, on lines of their own") from error
    with atomic_write(page) as temporary:
        text = f"{before}{begin}\n" + "\n".join(lines) + f"\n{end}{after}"
        temporary.write_text(text, encoding="utf-8", newline="\n")


def _run(plan: str, run: Record) -> dict[str, Any]:
    values = {**run, **run.get("fingerprint", {}), "plan": plan}
    return {name: values.get(name, "") for name in _RUN_COLUMNS}


def _comparisons(results: Results) -> Iterable[dict[str, Any]]:
    for (data, arch), group in groups(results.runs).items():
        for row in compare_cell(data, arch, group, results.plan.control, results.records):
            result, failed = row.comparison, count_failed(results, data, arch, row.method)
            yield {
                **{"plan": results.plan.name, "data": data, "arch": arch, "method": row.method},
                **{"control": results.plan.control, "evaluated_on": results.plan.evaluate, "seeds": result.seeds},
                **{"mean": result.ssia_mean, "control_mean": result.vanilla_mean, "difference": result.difference},
                **_ends("seeds", result.interval),
                **_ends("images", row.over_images),
                **{"p_holm": "" if row.adjusted is None else row.adjusted, "failed": failed},
                "verdict": verdict(row, failed),
            }


def _ends(name: str, interval: tuple[float, float] | None) -> dict[str, Any]:
    low, high = interval or ("", "")
    return {f"{name}_low": low, f"{name}_high": high}


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
