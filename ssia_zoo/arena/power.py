"""How many seeds a difference needs, from the spread of the paired differences that are recorded."""

from __future__ import annotations

from collections.abc import Sequence

from ssia_zoo.arena.results import Results, groups
from ssia_zoo.arena.statistics import Spread, pooled_spread, seeds_needed
from ssia_zoo.arena.tables import score_pairs
from ssia_zoo.errors import ConfigError

Row = tuple[str, str, str, str, str, str, str]


def power_rows(found: Sequence[Results], difference: float, power: float, alpha: float) -> list[Row]:
    """Return a row for each comparison that has at least two seeds, and one that pools them all.

    A row is the cell, the method, the number of pairs, the standard deviation of the paired differences and its 80 %
    interval, the seeds that this deviation needs, and those for the ends of the interval.

    Raises:
        ConfigError: No comparison has two seeds, or a number is out of range.
    """
    seeds_needed(difference, 1.0, power, alpha)
    rows, all_differences = [], []
    for results in found:
        for (data, arch), group in groups(results.runs).items():
            for method in group:
                pairs = score_pairs(group, method, results.plan.control)
                if method == results.plan.control or len(pairs) < 2:
                    continue
                differences = [score - control for score, control in pairs]
                all_differences.append(differences)
                spread = pooled_spread([differences])
                rows.append(_row(f"{arch} on {data}", method, len(pairs), spread, difference, power, alpha))
    if not rows:
        raise ConfigError("no method has two seeds that the control has too, so there is no spread; run more seeds")
    total = sum(map(len, all_differences))
    spread = pooled_spread(all_differences)
    return [*rows, _row("all, pooled", "all", total, spread, difference, power, alpha)]


def _row(
    cell: str, method: str, pairs: int, spread: Spread | None, difference: float, power: float, alpha: float
) -> Row:
    if spread is None:
        return cell, method, str(pairs), "0.00", "–", "–", "–"
    low, middle, high = (
        str(count) if (count := seeds_needed(difference, value, power, alpha)) is not None else "over 10000"
        for value in (spread.low, spread.deviation, spread.high)
    )
    interval = f"{spread.low:.2f} to {spread.high:.2f}"
    return cell, method, str(pairs), f"{spread.deviation:.2f}", interval, middle, f"{low} to {high}"
