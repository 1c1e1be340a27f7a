"""The table of published weights: each one against its control, with the interval of the difference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ssia_zoo.models.comparison import Comparison, compare
from ssia_zoo.models.listing import select_weights, summary

_WIDTH, _MARGIN = 160, 8  # of the drawn interval


@dataclass(frozen=True)
class Row:
    """A weight of the table."""

    weight: dict[str, Any]
    """From `ssia_zoo.models.listing.summary`."""
    comparison: Comparison

    @property
    def shown(self) -> bool:
        """Whether the interval excludes zero, so that a difference is shown."""
        interval = self.comparison.interval
        return interval is not None and not interval[0] <= 0 <= interval[1]


def zoo_rows(pattern: str = "", dataset: str | None = None, only_shown: bool = False) -> list[Row]:
    """Return the weights that match.

    Args:
        pattern: As in `select_weights`; empty for all.
        dataset: Name of the data, without remarks in brackets; None for all.
        only_shown: Leave out weights whose interval includes zero or is missing.
    """
    chosen = select_weights(pattern.strip() or None, dataset or None)
    rows = [Row(summary(weight), compare(weight.metrics.runs)) for weight in chosen]
    return [row for row in rows if row.shown or not only_shown]


def dataset_names() -> list[str]:
    """Return the names of the data sets of the published weights."""
    return sorted({short_dataset(weight.dataset.name) for weight in select_weights()})


def short_dataset(name: str) -> str:
    """Return a data set's name without remarks."""
    return name.split(" (")[0].split(", ")[0]


def draw_intervals(rows: list[Row]) -> list[dict[str, Any]]:
    """Return for each row where the interval is drawn: x of low, high, the mean, and zero, on a common scale."""
    values = [0.0]
    for row in rows:
        values += [row.comparison.difference, *(row.comparison.interval or ())]
    low, high = min(values), max(values)
    scale = (_WIDTH - 2 * _MARGIN) / ((high - low) or 1.0)

    def place(value: float) -> float:
        return round(_MARGIN + (value - low) * scale, 1)

    return [
        {
            "width": _WIDTH,
            "zero": place(0.0),
            "mean": place(row.comparison.difference),
            "interval": None if row.comparison.interval is None else [place(end) for end in row.comparison.interval],
        }
        for row in rows
    ]
