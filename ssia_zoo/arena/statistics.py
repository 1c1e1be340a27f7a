"""Statistics of paired runs: intervals over seeds and over images, Holm's correction, and how many seeds are needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np
import numpy.typing as npt

from ssia_zoo.errors import ConfigError
from ssia_zoo.evaluation.paired import image_interval
from ssia_zoo.models.comparison import Comparison, compare
from ssia_zoo.models.weight import PairedRun

Scores = Sequence[tuple[float, float]]
"""(score, score of the control) of each seed."""

_MOST_SEEDS = 10_000


def compare_pairs(pairs: Scores) -> Comparison:
    """Compare (score, score of the control) pairs: mean difference and its 95 % t-interval."""
    return compare([PairedRun(seed=number, ssia=s, vanilla=control) for number, (s, control) in enumerate(pairs)])


def p_value(pairs: Scores) -> float | None:
    """Return the two-sided p-value of the paired t-test; None without pairs or an interval of `compare_pairs`."""
    if not pairs or compare_pairs(pairs).interval is None:
        return None
    from scipy.stats import ttest_rel  # takes a second to import

    return float(ttest_rel(*zip(*pairs, strict=True)).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for the number of comparisons by Holm's step-down method.

    Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 6 (1979).
    """
    adjusted, largest, count = [0.0] * len(p_values), 0.0, len(p_values)
    for rank, index in enumerate(sorted(range(count), key=lambda place: p_values[place])):
        largest = max(largest, min(1.0, (count - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def over_images(changes: Sequence[npt.NDArray[np.float64]]) -> tuple[float, float]:
    """Return the 95 % bootstrap interval over images of the mean difference over seeds, in points.

    Args:
        changes: For each seed and image, whether the method is right minus whether the control is.
    """
    return image_interval(100 * np.mean(changes, axis=0))


@dataclass(frozen=True)
class Spread:
    """The standard deviation of a paired difference, pooled over comparisons, with its 80 % interval."""

    deviation: float
    degrees: int
    low: float
    high: float


def pooled_spread(groups: Sequence[Sequence[float]]) -> Spread | None:
    """Pool the standard deviations of the paired differences of several comparisons.

    Args:
        groups: Differences by comparison, one a seed; comparisons of one seed count for nothing.

    Returns:
        None if no comparison has two seeds, or none of the differences varies.
    """
    from scipy.stats import chi2

    degrees = sum(len(group) - 1 for group in groups if len(group) > 1)
    squares = sum(sum((value - mean(group)) ** 2 for value in group) for group in groups if len(group) > 1)
    if not degrees or not squares:
        return None
    low, high = (math.sqrt(squares / float(chi2.ppf(share, degrees))) for share in (0.9, 0.1))
    return Spread(math.sqrt(squares / degrees), degrees, low, high)


def power_of(seeds: int, difference: float, deviation: float, alpha: float = 0.05) -> float:
    """Return the probability that the two-sided paired t-test shows a difference, from the noncentral t distribution.

    Args:
        seeds: Number of pairs, at least 2.
        difference: True difference.
        deviation: Standard deviation of the paired differences.
        alpha: Level of the test.
    """
    from scipy.stats import nct, t

    limit = float(t.ppf(1 - alpha / 2, seeds - 1))
    shift = abs(difference) / deviation * math.sqrt(seeds)
    # sf of the mirrored distribution for the lower tail: SciPy's cdf there is NaN for large shifts
    return float(nct.sf(limit, seeds - 1, shift) + nct.sf(limit, seeds - 1, -shift))


def seeds_needed(difference: float, deviation: float, power: float = 0.8, alpha: float = 0.05) -> int | None:
    """Return the least number of pairs with which the test shows a difference with this probability.

    Returns:
        None if more than 10,000 are needed.

    Raises:
        ConfigError: A number is out of range.
    """
    if not difference:
        raise ConfigError("`difference` is 0, which no number of seeds shows; expected points of top-1, such as 0.5")
    if not (0 < power < 1 and 0 < alpha < 1):
        raise ConfigError(f"`power` is {power:g} and `alpha` {alpha:g}; expected both between 0 and 1")
    low, high = 1, 2
    while power_of(high, difference, deviation, alpha) < power:
        low, high = high, 2 * high
        if low > _MOST_SEEDS:
            return None
    while high - low > 1:  # the power grows with the number of pairs
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(middle, difference, deviation, alpha) >= power else (middle, high)
    return high if high <= _MOST_SEEDS else None
