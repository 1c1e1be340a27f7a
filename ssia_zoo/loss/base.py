"""The interface of an auxiliary objective, and the schedule of lambda."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor, bfloat16, float16, float32, float64, nn

from ssia_zoo.errors import ConfigError

StageShape = tuple[int, int, int]
"""Channels, height and width of a stage's feature map."""

LabelLoss = Callable[[Tensor], Tensor]
"""The task's criterion with a batch's targets bound: maps logits [B, num_classes] to a scalar."""

Schedule = Literal["constant", "warmup", "cosine"]

Recipient = Literal["lower", "deepest", "logits"]
"""What the gradient of an objective may reach, see `AuxiliaryLoss.gradient_to`."""


RESERVED = ("loss", "output", "task_loss", "top1", "lr", "head_lr", "lambda", "epoch", "images_per_second", "skipped")
"""Names in a training step's record, which no term of an objective may have."""


class AuxiliaryLoss(nn.Module):
    """Base class for training-only objectives on the stages of a network; holds their training-only heads.

    `forward(features, logits)` takes the stages' feature maps [B, C, H, W], lowest first, and the final logits
    [B, num_classes]. It returns scalars in at least float32: the objective under its `name`, without lambda, and its
    parts. If `uses_labels`, it takes a `LabelLoss` as third argument, so that label smoothing, mixup or binary
    cross-entropy apply to the heads as to the final logits; otherwise it never sees a label.

    No objective uses statistics across images, so gradient accumulation and data parallelism do not change it.
    Construction does not advance the global random state, so that training with lambda 0 equals training without the
    objective. `ssia_zoo.loss.check` tests a class for this. A class may take more keyword arguments, with defaults.

    Args:
        shapes: Channels, height, width of each stage's feature map at the training size, lowest first; at least 2.
        num_classes: Width of the logits.

    Raises:
        ConfigError: There are fewer than 2 stages, or a shape or `num_classes` is not positive.
    """

    name: ClassVar[str]
    uses_labels: bool = False
    gradient_to: ClassVar[Sequence[Recipient]] = ("lower",)
    """What the gradient may reach, apart from the objective's own heads: "lower": all stages but the deepest;
    "deepest": the deepest; "logits": the final logits."""
    one_label: ClassVar[bool] = False
    """Whether it compares distributions over the classes, which images with several labels do not have."""
    default_weight: ClassVar[float] = 1.0
    """Lambda, where none is set."""
    source: ClassVar[str] = ""
    """Title and arXiv id of the paper, for model cards."""

    def __init__(self, shapes: Sequence[StageShape], num_classes: int) -> None:
        super().__init__()
        self.shapes = [_checked_shape(i, shape) for i, shape in enumerate(shapes)]
        self.num_classes = num_classes
        if len(self.shapes) < 2:
            raise ConfigError(f"{self.name.upper()} needs at least 2 stages; got {len(self.shapes)}")
        if num_classes < 1:
            raise ConfigError(f"{self.name.upper()} needs a classifier; got num_classes={num_classes}")

    def set_progress(self, progress: float) -> None:
        """Set the fraction of optimizer steps done, from 0 to 1; objectives that change over training use it."""


def describe_terms(terms: Any, name: str) -> str | None:
    """Return what is wrong with the result of an objective's forward; None if nothing is.

    Args:
        terms: The result.
        name: Name of the objective.
    """
    if not isinstance(terms, dict) or name not in terms:
        found = ", ".join(map(str, terms)) if isinstance(terms, dict) else type(terms).__name__
        return f"forward returns {found}; expected a dict of scalars with the key {name}"
    for key, term in terms.items():
        if key in RESERVED:
            return f"forward returns a term {key}, a name that records use for something else; rename it"
        if not isinstance(term, Tensor) or term.ndim:
            found = f"a tensor of shape {tuple(term.shape)}" if isinstance(term, Tensor) else type(term).__name__
            return f"{key} is {found}; expected a scalar tensor"
        if term.dtype not in (float32, float64):
            return f"{key} is in {str(term.dtype).removeprefix('torch.')}; expected float32"
    return None


def scheduled(peak: float, schedule: Schedule, warmup: float, progress: float) -> float:
    """Return lambda at a point of training.

    Args:
        peak: Largest value.
        schedule: "constant", "warmup" (linear increase, then constant) or "cosine" (decay to 0 after the warm-up).
        warmup: Fraction of training over which lambda increases from 0.
        progress: Fraction of optimizer steps done, from 0 to 1.
    """
    increase = min(1.0, progress / warmup) if warmup > 0 else 1.0
    if schedule == "constant":
        return peak
    if schedule == "warmup":
        return peak * increase
    decay = (progress - warmup) / (1 - warmup) if warmup < 1 else 0.0
    return peak * increase * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, decay))))


def at_least_float32(x: Tensor) -> Tensor:
    """Convert half precision to float32; return any other tensor as it is."""
    return x.float() if x.dtype in (float16, bfloat16) else x


def _checked_shape(stage: int, shape: Sequence[int]) -> StageShape:
    if len(shape) != 3 or min(shape) < 1:
        raise ConfigError(f"shape of stage {stage} is {tuple(shape)}; expected positive (channels, height, width)")
    return shape[0], shape[1], shape[2]
