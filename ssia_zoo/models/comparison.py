"""Compare SSIA with its vanilla control over several seeds: means, standard deviations, paired difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from ssia_zoo.models.weight import PairedRun

_TOO_EASY = 95.0
"""Mean top-1 of the controls, in percent, from which the data leaves little room for a gain."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Top-1 in percent; differences in points, SSIA minus control."""

    seeds: int
    ssia_mean: float
    vanilla_mean: float
    difference: float
    """mean of the paired differences"""
    spread: tuple[float, float, float] | None
    """sample standard deviations of SSIA, the control and the difference; None for a single seed"""
    interval: tuple[float, float] | None
    """95 % t-interval of the mean difference; None for fewer than three seeds or if all differences are equal"""

    @property
    def too_easy(self) -> bool:
        """Whether the controls score so high that the data leaves little room for a gain."""
        return self.vanilla_mean >= _TOO_EASY

    def conclusion(self) -> str:
        """State in sentences what the runs show, and if they show nothing, that."""
        text = self._about_interval()
        if self.too_easy:
            text += (
                f" **The control alone reaches {self.vanilla_mean:.2f} %: these data leave little room for a gain, and "
                "say little about other data.**"
            )
        return text

    def _about_interval(self) -> str:
        if self.interval is None:
            if self.seeds > 2:
                reason = f"All {self.seeds} differences are equal, which leaves no variance for an interval"
            else:
                reason = f"An interval needs at least three seeds, not {self.seeds}"
            return f"{reason}. No gain is claimed."
        low, high = self.interval
        text = (
            f"Paired difference over {self.seeds} seeds: {self.difference:+.2f} points, 95 % t-interval "
            f"[{low:+.2f}, {high:+.2f}]. "
        )
        if low <= 0 <= high:
            return text + "**The interval spans zero: these runs show no difference between SSIA and its control.**"
        direction = "higher" if low > 0 else "**lower**"
        return text + (
            f"The interval excludes zero: with this recipe and on these images SSIA scored {direction} than its "
            "control. The interval covers the choice of seed, not of images, data or architecture."
        )


def compare(runs: Sequence[PairedRun]) -> Comparison:
    """Compare paired runs.

    Args:
        runs: All seeds that were run, at least one.
    """
    ssia, vanilla = [run.ssia for run in runs], [run.vanilla for run in runs]
    # Scores have two decimals: rounding makes differences equal that floating point tells apart in the last bits.
    differences = [round(run.ssia - run.vanilla, 6) for run in runs]
    spread = (stdev(ssia), stdev(vanilla), stdev(differences)) if len(runs) > 1 else None
    interval = None
    if spread is not None and len(runs) > 2 and spread[2] > 0:
        from scipy.stats import ttest_rel  # takes a second to import

        low, high = ttest_rel(ssia, vanilla).confidence_interval()
        interval = (float(low), float(high))
    return Comparison(
        seeds=len(runs),
        ssia_mean=mean(ssia),
        vanilla_mean=mean(vanilla),
        difference=mean(differences),
        spread=spread,
        interval=interval,
    )
