"""Training-only heads on the lower stages of a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssia_zoo.errors import ConfigError
from ssia_zoo.loss.base import StageShape, at_least_float32

_GRID = 2  # positions a side


class Head(nn.Module):
    """A training-only predictor on a lower stage: pooling, then linear, LayerNorm, GELU and linear per position.

    Args:
        in_channels: Channels of the lower stage's feature map.
        hidden: Width.
        out_features: Width of the prediction, per position.
        bias: Whether the last linear layer has a bias; it has no effect before a softmax over positions.

    Raises:
        ConfigError: `hidden` is not positive.
    """

    def __init__(self, in_channels: int, hidden: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        if hidden < 1:
            raise ConfigError(f"the width of a head is {hidden}; expected at least 1 channel")
        self.project = nn.Linear(in_channels, hidden)  # a 1x1 convolution takes 1.3 times as long on a CPU
        self.norm = nn.LayerNorm(hidden)
        self.predict = nn.Linear(hidden, out_features, bias=bias)

    def forward(self, feature: Tensor, grid: tuple[int, int], pool: Tensor | None) -> Tensor:
        """Predict from a feature map.

        Args:
            feature: Lower stage's feature map [B, C, H, W]. It is pooled to `grid` in its own dtype (the kernels
                accumulate in float32), which avoids a float32 copy of a large map.
            grid: Height and width after pooling.
            pool: Weights of the grid's positions [B, H * W] for their average, or None to predict at each position.

        Returns:
            Prediction [B, out_features], or [B, H * W, out_features] without `pool`.
        """
        return at_least_float32(self.predict(self.embed(feature, grid, pool)))

    def embed(self, feature: Tensor, grid: tuple[int, int], pool: Tensor | None) -> Tensor:
        """Return the input of the last linear layer: [B, hidden], or [B, H * W, hidden] without `pool`."""
        pooled = at_least_float32(F.adaptive_avg_pool2d(feature, grid)).to(self.project.weight.dtype)
        positions = pooled.flatten(2).transpose(1, 2)
        x = F.gelu(self.norm(self.project(positions)))
        if pool is not None:
            x = torch.einsum("bpc,bp->bc", x, pool.to(x.dtype))
        return x


def even_grid(feature: Tensor) -> tuple[tuple[int, int], Tensor]:
    """Return a small grid with equal weights: cheap, but not yet pooled to one position.

    Args:
        feature: Feature map [B, C, H, W].

    Returns:
        A grid of at most 2x2 and equal weights for its positions [B, H * W], as arguments of `Head`.
    """
    height, width = min(_GRID, feature.shape[2]), min(_GRID, feature.shape[3])
    positions = height * width
    dtype = torch.promote_types(feature.dtype, torch.float32)
    return (height, width), feature.new_full((feature.shape[0], positions), 1 / positions, dtype=dtype)


class StageClassifiers(nn.Module):
    """A classifier on each stage but the deepest: the same head as that of SSIA's semantic signal.

    Args:
        shapes: Channels, height, width of each stage's feature map, lowest first.
        num_classes: Width of the logits.
        hidden: Width of the heads, in channels.
    """

    def __init__(self, shapes: Sequence[StageShape], num_classes: int, hidden: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(Head(shape[0], hidden, num_classes) for shape in shapes[:-1])

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Classify each lower stage.

        Args:
            features: Feature maps [B, C, H, W], lowest first; the deepest is not used.

        Returns:
            Logits of each lower stage [B, num_classes], and the inputs of its last linear layer [B, hidden].
        """
        heads: Any = self.heads  # a ModuleList has no element type
        embeddings = [head.embed(x, *even_grid(x)) for head, x in zip(heads, features[:-1], strict=True)]
        return [head.predict(x) for head, x in zip(heads, embeddings, strict=True)], embeddings
