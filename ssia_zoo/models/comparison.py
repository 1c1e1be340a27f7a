"""SSIA against its vanilla control over several seeds: means, spreads, and what the paired difference allows to say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from ssia_zoo.models.weight import PairedRun

_TOO_EASY = 95.0
"""Top-1 in percent, of the controls' mean, from which data is called too easy to show a gain."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Top-1 in percent; differences in points, SSIA minus control."""

    seeds: int
    ssia_mean: float
    vanilla_mean: float
    difference: float
    """mean of the paired differences"""
    spread: tuple[float, float, float] | None
    """sample standard deviations of SSIA, of the control and of their difference; None for a single seed"""
    interval: tuple[float, float] | None
    """95 % t-interval of the mean difference; None for less than three seeds, or if all differences are equal"""

    @property
    def too_easy(self) -> bool:
        """Whether the controls leave no room in which a gain could be seen."""
        return self.vanilla_mean >= _TOO_EASY

    def conclusion(self) -> str:
        """What may be said of the difference, in sentences; where nothing may be said, this too."""
        text = self._about_interval()
        if self.too_easy:
            text += (
                f" **The control alone reaches {self.vanilla_mean:.2f} %: such data are too easy to show a gain, and "
                "none is claimed.**"
            )
        return text

    def _about_interval(self) -> str:
        if self.interval is None:
            if self.seeds > 2:
                reason = f"All {self.seeds} differences are equal: there is no spread to make an interval of"
            else:
                reason = f"Of {self.seeds} seed{'s' * (self.seeds > 1)} no interval can be made"
            return f"{reason}, and no gain is claimed."
        low, high = self.interval
        text = (
            f"Paired difference over {self.seeds} seeds: {self.difference:+.2f} points, 95 % t-interval "
            f"[{low:+.2f}, {high:+.2f}]. "
        )
        if low <= 0 <= high:
            return text + "**The interval spans zero: these runs do not show that SSIA and its control differ.**"
        direction = "higher" if low > 0 else "**lower**"
        return text + (
            f"The interval excludes zero: with this recipe and on these images SSIA scored {direction} than its "
            "control. It covers the choice of the seed, not that of images, data or architecture."
        )


def compare(runs: Sequence[PairedRun]) -> Comparison:
    """Compare paired runs.

    Args:
        runs: At least one; every seed that was run.
    """
    ssia, vanilla = [run.ssia for run in runs], [run.vanilla for run in runs]
    # Scores are rounded to hundredths; without rounding, equal differences would differ in their last bits.
    differences = [round(run.ssia - run.vanilla, 6) for run in runs]
    difference, n = mean(differences), len(runs)
    spread = (stdev(ssia), stdev(vanilla), stdev(differences)) if n > 1 else None
    interval = None
    if spread is not None and n > 2 and spread[2] > 0:
        from scipy.special import stdtrit  # type: ignore[import-untyped]  # here, as training needs no quantiles

        half = float(stdtrit(n - 1, 0.975)) * spread[2] / n**0.5
        interval = (difference - half, difference + half)
    return Comparison(
        seeds=n,
        ssia_mean=mean(ssia),
        vanilla_mean=mean(vanilla),
        difference=difference,
        spread=spread,
        interval=interval,
    )
