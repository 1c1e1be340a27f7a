"""Write tables and plots of the runs recorded by accuracy.py into benchmarks/accuracy.md."""

from __future__ import annotations

from recording import BENCHMARKS, RESULTS, Record, replace_table

from ssia_zoo.arena.figures import draw
from ssia_zoo.arena.tables import section

REPORT = BENCHMARKS / "accuracy.md"
IMAGES = BENCHMARKS / "images"
RECORDS = RESULTS / "accuracy.jsonl"


def write_report(plans: dict[str, list[Record]]) -> None:
    """Replace the generated part of benchmarks/accuracy.md and draw a plot for each plan that has runs."""
    parts = [""]
    for name, runs in plans.items():
        if not runs:
            continue
        parts.append(section(name, runs, records=RECORDS))
        picture = IMAGES / f"accuracy_{name.replace(', ', '_').replace(' ', '_')}.png"
        if draw(runs, picture):
            parts.append(f"![paired differences of {name}](images/{picture.name})\n")
    replace_table(REPORT, "accuracy", parts)
