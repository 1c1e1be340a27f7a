"""What all rivals share: the settings that a user tunes, and what an objective says of its source."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

from ssia_zoo.errors import ConfigError
from ssia_zoo.loss.base import AuxiliaryLoss, Schedule, StageShape, check_schedule, scheduled


@dataclass(frozen=True)
class RivalConfig:
    """What is tuned of a rival objective.

    Raises:
        ConfigError: If a value is out of range, on construction.
    """

    weight: float | None = None
    """lambda, the weight of a rival's objective beside the task loss; its source's own if not given"""
    schedule: Schedule = "constant"
    """lambda over training: constant; warmup: rises linearly, then stays; cosine: after a warm-up, falls to 0"""
    warmup: float = 0.1
    """share of training over which lambda rises linearly from 0, for the schedules warmup and cosine"""

    def __post_init__(self) -> None:
        check_schedule("rival", self.weight or 0.0, self.schedule, self.warmup)

    def weight_at(self, progress: float, default: float) -> float:
        """Lambda at a point of training.

        Args:
            progress: Share of optimizer steps done, from 0 to 1.
            default: Lambda's peak if none is set.
        """
        weight = default if self.weight is None else self.weight
        return scheduled(weight, self.schedule, self.warmup, progress)


class RivalLoss(AuxiliaryLoss):
    """An auxiliary objective of other people's."""

    source: ClassVar[str]
    """Title and arXiv id of its paper, for model cards."""
    default_weight: ClassVar[float]
    """Lambda if none is set: its source's own."""


@dataclass(frozen=True)
class RivalSettings:
    """What a rival's source fixes beside lambda.

    Raises:
        ConfigError: If a value is not above 0, on construction.
    """

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{type(self).__name__}.{field.name} is {value}; expected a finite number > 0")


def spatial_pairs(name: str, shapes: Sequence[StageShape], pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Keep the pairs (lower, higher stage) whose maps both say where: those with more than one position.

    Raises:
        ConfigError: If there is none.
    """
    kept = [pair for pair in pairs if all(shapes[stage][1] * shapes[stage][2] > 1 for stage in pair)]
    if not kept:
        raise ConfigError(
            f"{name} has no signal: every supervising stage has one position (shapes {list(shapes)}); use larger "
            "images or another --method"
        )
    return kept
