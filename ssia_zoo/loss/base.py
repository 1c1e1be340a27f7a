"""What every auxiliary objective shares, SSIA and its rivals alike: its interface, and lambda over training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, get_args

from torch import Tensor, bfloat16, float16, nn

from ssia_zoo.errors import ConfigError

StageShape = tuple[int, int, int]
"""Channels, height and width of one stage's feature map."""

LabelLoss = Callable[[Tensor], Tensor]
"""The task's criterion on a batch's targets: logits [B, num_classes] to a scalar."""

Schedule = Literal["constant", "warmup", "cosine"]


class AuxiliaryLoss(nn.Module):
    """A training-only objective on the stages of one network, beside the task loss; holds its training-only heads.

    `forward(features, logits)` takes the stages' maps [B, C, H, W], lowest first, and the final logits
    [B, num_classes], and gives scalars in at least float32: "<name>" is the objective without lambda, the others are
    its parts. An objective with `uses_labels` takes a `LabelLoss` as third argument, so that smoothing, mixup or
    binary cross-entropy apply to its heads as they do to the final logits; any other never sees a label.

    No objective uses statistics across images, so each is the same under gradient accumulation and data parallelism.
    Building one leaves the global random state as it was, so that a network trained with lambda 0 is the network
    trained without it.

    Args:
        shapes: Channels, height, width of each stage's map at the training size, lowest stage first; K >= 2 stages.
        num_classes: Width of the logits.

    Raises:
        ConfigError: If there are fewer than two stages, or a shape or the class count is not positive.
    """

    name: ClassVar[str]
    uses_labels: bool = False

    def __init__(self, shapes: Sequence[StageShape], num_classes: int) -> None:
        super().__init__()
        self.shapes = [_checked_shape(i, shape) for i, shape in enumerate(shapes)]
        self.num_classes = num_classes
        if len(self.shapes) < 2:
            name = self.name.upper()
            raise ConfigError(f"{name} needs at least 2 stages, a lower and a higher one; got {len(self.shapes)}")
        if num_classes < 1:
            raise ConfigError(f"{self.name.upper()} needs a classifier; got num_classes={num_classes}")

    def set_progress(self, progress: float) -> None:
        """Tell the share of optimizer steps done, from 0 to 1, to an objective that changes over training."""


def scheduled(weight: float, schedule: Schedule, warmup: float, progress: float) -> float:
    """Lambda at a point of training.

    Args:
        weight: Its peak.
        schedule: constant; warmup: rises linearly, then stays; cosine: after the warm-up, falls to 0.
        warmup: Share of training over which it rises from 0.
        progress: Share of optimizer steps done, from 0 to 1.
    """
    rise = min(1.0, progress / warmup) if warmup > 0 else 1.0
    if schedule == "constant":
        return weight
    if schedule == "warmup":
        return weight * rise
    fall = (progress - warmup) / (1 - warmup) if warmup < 1 else 0.0
    return weight * rise * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, fall))))


def check_schedule(group: str, weight: float, schedule: str, warmup: float) -> None:
    """Check what `scheduled` will be given.

    Raises:
        ConfigError: Names the setting as group.setting, its value and what was expected.
    """
    if schedule not in get_args(Schedule):
        raise ConfigError(f"{group}.schedule is {schedule!r}; expected one of {', '.join(get_args(Schedule))}")
    if not (math.isfinite(weight) and weight >= 0):
        raise ConfigError(f"{group}.weight is {weight}; expected a finite number >= 0")
    if not 0 <= warmup <= 1:
        raise ConfigError(f"{group}.warmup is {warmup}; expected a share of training from 0 to 1")


def at_least_float32(x: Tensor) -> Tensor:
    """The tensor itself, or its float32 copy if it is of half precision."""
    return x.float() if x.dtype in (float16, bfloat16) else x


def _checked_shape(stage: int, shape: Sequence[int]) -> StageShape:
    if len(shape) != 3 or min(shape) < 1:
        raise ConfigError(f"shape of stage {stage} is {tuple(shape)}; expected positive (channels, height, width)")
    return shape[0], shape[1], shape[2]
