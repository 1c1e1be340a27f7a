"""One table of all final comparisons of several plans, whatever they show."""

from __future__ import annotations

from collections.abc import Sequence

from ssia_zoo.arena.results import Results, count_failed, groups
from ssia_zoo.arena.tables import Compared, compare_cell, format_interval, format_p, markdown

_LEVEL = 0.05


def leaderboard(found: Sequence[Results]) -> list[str]:
    """Return a Markdown table of all methods that were compared on a test split, best first in each cell.

    Args:
        found: Of any plans; those that evaluate on validation images are left out.
    """
    rows = []
    for results in found:
        if results.plan.evaluate != "test":
            continue
        for (data, arch), group in groups(results.runs).items():
            compared = compare_cell(data, arch, group, results.plan.control, results.records)
            for row in sorted(compared, key=lambda row: -row.comparison.difference):
                rows.append(_row(results.plan.name, row, count_failed(results, data, arch, row.method)))
    if not rows:
        return ["No comparison on a test split is recorded yet."]
    shown = sum(row["verdict"] in ("higher", "lower") for row in rows)
    summary = (
        f"{len(rows)} comparisons; {shown} of them show a difference after Holm's correction, "
        f"{sum('no difference' in row['verdict'] for row in rows)} show none, "
        f"{sum('too few' in row['verdict'] for row in rows)} have too few seeds."
    )
    for text in ("equal in all seeds", "incomplete"):
        if count := sum(text in row["verdict"] for row in rows):
            summary += f" {count} {text}."
    return [summary, "", *markdown(rows)]


def _row(plan: str, row: Compared, failed: int) -> dict[str, str]:
    result = row.comparison
    return {
        "plan": plan,
        "cell": f"{row.arch} on {row.data}",
        "method": row.method,
        "seeds": str(result.seeds),
        "control": f"{result.vanilla_mean:.2f}",
        "difference": f"{result.difference:+.2f}",
        "95 % over seeds": format_interval(result.interval),
        "p, Holm": format_p(row.adjusted),
        "95 % over images": format_interval(row.over_images),
        "verdict": verdict(row, failed),
    }


def verdict(row: Compared, failed: int = 0) -> str:
    """State in words what a comparison shows.

    Args:
        row: From `compare_cell`.
        failed: Runs of the method or the control that failed: those that did not might be the easy ones.
    """
    if failed:
        return f"incomplete: {failed} failed"
    if row.adjusted is None:
        return "too few seeds" if row.comparison.seeds < 3 else "equal in all seeds: no interval"
    if row.adjusted >= _LEVEL:
        return "no difference shown"
    return "higher" if row.comparison.difference > 0 else "lower"
