"""Training-only classifiers made of convolutions, as in the sources of BYOT and DKS.

Both sources normalize by BatchNorm, whose statistics are across images. Here each image is normalized by its own
(GroupNorm of one group), so that gradient accumulation and data parallelism do not change the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from ssia_zoo.errors import ConfigError
from ssia_zoo.loss.base import StageShape, at_least_float32
from ssia_zoo.loss.heads import StageClassifiers

Heads = Literal["pooled", "convolutional"]


def check_heads(heads: str) -> None:
    """Check the name of a kind of heads.

    Raises:
        ConfigError: It is unknown.
    """
    if heads not in get_args(Heads):
        raise ConfigError(f"heads is {heads!r}; expected one of {', '.join(get_args(Heads))}")


class ConvolutionalClassifiers(nn.Module):
    """A classifier on each stage but the deepest: convolutions, average over positions, linear.

    Args:
        stacks: The convolutions of each lower stage.
        width: Channels of their results.
        num_classes: Width of the logits.
    """

    def __init__(self, stacks: Sequence[nn.Module], width: int, num_classes: int) -> None:
        super().__init__()
        self.stacks = nn.ModuleList(stacks)
        self.predict = nn.ModuleList(nn.Linear(width, num_classes) for _ in stacks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # as both sources
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Classify each lower stage; arguments and result are those of `StageClassifiers`."""
        lower = [at_least_float32(feature) for feature in features[:-1]]
        embeddings = [stack(x).mean(dim=(2, 3)) for stack, x in zip(self.stacks, lower, strict=True)]
        return [predict(x) for predict, x in zip(self.predict, embeddings, strict=True)], embeddings


Classifiers = StageClassifiers | ConvolutionalClassifiers


def bottleneck(shape: StageShape, deepest: StageShape, middle: int) -> nn.Module:
    """Build BYOT's bottleneck: 1x1, kxk with stride k to the deepest map's size, and 1x1 convolution.

    Each is followed by a norm and ReLU.

    Args:
        shape: Channels, height, width of the lower stage's feature map.
        deepest: Those of the deepest, whose channels the result has.
        middle: Channels between the convolutions.

    Raises:
        ConfigError: `middle` is not positive.
    """
    if middle < 1:
        raise ConfigError(f"the width of a head is {middle}; expected at least 1 channel")
    size = _strides(shape, deepest)
    convolutions = [
        nn.Conv2d(shape[0], middle, 1),
        nn.Conv2d(middle, middle, size, stride=size),
        nn.Conv2d(middle, deepest[0], 1),
    ]
    layers = [layer for conv in convolutions for layer in (conv, nn.GroupNorm(1, conv.out_channels), nn.ReLU())]
    return nn.Sequential(*layers)


class ResidualStages(nn.Sequential):
    """DKS's branch: the stages above a lower one once more, as pre-activation residual blocks.

    Args:
        shapes: Channels, height, width of the lower stage's feature map and of all above it.
    """

    def __init__(self, shapes: Sequence[StageShape]) -> None:
        blocks = [PreActivationBlock(low, high) for low, high in pairwise(shapes)]
        super().__init__(*blocks, nn.GroupNorm(1, shapes[-1][0]), nn.ReLU())


class PreActivationBlock(nn.Module):
    """Residual block of two 3x3 convolutions, each after a norm and ReLU (arXiv 1603.05027).

    Args:
        shape: Channels, height, width of the input.
        result: Those of the result.
    """

    def __init__(self, shape: StageShape, result: StageShape) -> None:
        super().__init__()
        stride: Any = _strides(shape, result)
        self.norm1, self.norm2 = nn.GroupNorm(1, shape[0]), nn.GroupNorm(1, result[0])
        self.conv1 = nn.Conv2d(shape[0], result[0], 3, stride=stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(result[0], result[0], 3, padding=1, bias=False)
        changes = shape[0] != result[0] or stride != (1, 1)
        self.shortcut = nn.Conv2d(shape[0], result[0], 1, stride=stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """Return a feature map of the result's channels."""
        first = F.relu(self.norm1(x))
        second: Tensor = self.conv2(F.relu(self.norm2(self.conv1(first))))
        return second + (x if self.shortcut is None else self.shortcut(first))


def _strides(shape: StageShape, result: StageShape) -> tuple[int, int]:
    return max(1, shape[1] // result[1]), max(1, shape[2] // result[2])
