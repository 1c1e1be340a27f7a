"""The base class and the settings of the rivals: published objectives that SSIA is compared with."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import NonNegativeFloat
from pydantic.dataclasses import dataclass

from ssia_zoo.errors import ConfigError
from ssia_zoo.loss.base import AuxiliaryLoss, Schedule, StageShape, scheduled
from ssia_zoo.validation import STRICT, Fraction, one_line_errors


@one_line_errors("rival")
@dataclass(frozen=True, config=STRICT)
class RivalConfig:
    """Settings of an objective other than SSIA: lambda and its schedule.

    Raises:
        ConfigError: A value is out of range.
    """

    weight: NonNegativeFloat | None = None
    """Lambda, the weight of the objective in the loss; if None, that of its source."""
    schedule: Schedule = "constant"
    """Lambda over training: constant; warmup: linear increase, then constant; cosine: decay to 0 after a warm-up."""
    warmup: Fraction = 0.1
    """Fraction of training over which lambda increases from 0, for the schedules warmup and cosine."""

    def lambda_at(self, progress: float, default: float) -> float:
        """Return lambda at a point of training.

        Args:
            progress: Fraction of optimizer steps done, from 0 to 1.
            default: Peak of lambda where `weight` is None.
        """
        peak = default if self.weight is None else self.weight
        return scheduled(peak, self.schedule, self.warmup, progress)


class RivalLoss(AuxiliaryLoss):
    """Base class for the objectives of other papers; `default_weight` is the lambda of the paper."""


def spatial_pairs(name: str, shapes: Sequence[StageShape], pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the pairs (lower stage, higher stage) in which both feature maps have more than one position.

    Args:
        name: Name of the objective, for the error.
        shapes: Channels, height, width of each stage's feature map.
        pairs: Candidates, as indices of stages.

    Raises:
        ConfigError: There is no such pair.
    """
    kept = [pair for pair in pairs if all(shapes[stage][1] * shapes[stage][2] > 1 for stage in pair)]
    if not kept:
        raise ConfigError(
            f"{name} has no signal: every supervising stage has one position (shapes {list(shapes)}); use larger "
            "images or another `method`"
        )
    return kept
