"""Training-only heads on a network's lower stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssia_zoo.loss.base import StageShape, at_least_float32

_GRID = 2  # positions a side


class Head(nn.Module):
    """A training-only predictor on a lower stage: pool, then per position linear, LayerNorm, GELU, linear.

    Args:
        in_channels: Channels of the lower stage's map.
        hidden: Width.
        out_features: Width of the prediction, per position.
        bias: Whether the last map has one; a softmax over positions is blind to it.
    """

    def __init__(self, in_channels: int, hidden: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.project = nn.Linear(in_channels, hidden)  # as a 1x1 convolution takes 1.3 times as long on a CPU
        self.norm = nn.LayerNorm(hidden)
        self.predict = nn.Linear(hidden, out_features, bias=bias)

    def forward(self, feature: Tensor, grid: tuple[int, int], pool: Tensor | None) -> Tensor:
        """Predict from a map.

        Args:
            feature: Lower stage's map [B, C, H, W]; pooled to `grid` in its own dtype (whose kernels accumulate in
                float32), so that no float32 copy of a large map is made.
            grid: Height and width at which the head works.
            pool: Weights over the grid's positions [B, H * W] to pool by, or None to predict at every position.

        Returns:
            Prediction [B, out_features], or [B, H * W, out_features] without `pool`.
        """
        out: Tensor = self.predict(self.embed(feature, grid, pool))
        return out

    def embed(self, feature: Tensor, grid: tuple[int, int], pool: Tensor | None) -> Tensor:
        """What `forward` predicts from: [B, hidden], or [B, H * W, hidden] without `pool`."""
        positions = at_least_float32(F.adaptive_avg_pool2d(feature, grid)).flatten(2).transpose(1, 2)
        x = F.gelu(self.norm(self.project(positions)))
        if pool is not None:
            x = torch.einsum("bpc,bp->bc", x, pool)
        return x


def even_grid(feature: Tensor) -> tuple[tuple[int, int], Tensor]:
    """Where the heads work that see few positions and pool them evenly: cheap, and not yet fully pooled.

    Args:
        feature: Feature map [B, C, H, W].

    Returns:
        A grid of at most 2x2 and even weights over its positions [B, H * W], as `Head` takes them.
    """
    height, width = min(_GRID, feature.shape[2]), min(_GRID, feature.shape[3])
    positions = height * width
    dtype = torch.promote_types(feature.dtype, torch.float32)
    return (height, width), feature.new_full((feature.shape[0], positions), 1 / positions, dtype=dtype)


class StageClassifiers(nn.Module):
    """A classifier on each stage but the deepest: the head of SSIA's semantic signal, at its cost.

    Args:
        shapes: Channels, height, width of each stage's map, lowest stage first.
        num_classes: Width of the logits.
        hidden: Width of the heads, in channels.
    """

    def __init__(self, shapes: Sequence[StageShape], num_classes: int, hidden: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(Head(shape[0], hidden, num_classes) for shape in shapes[:-1])

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Classify from each lower stage.

        Args:
            features: The stages' maps [B, C, H, W], lowest first; the deepest is not looked at.

        Returns:
            Each lower stage's logits [B, num_classes], and what its last linear map sees [B, hidden].
        """
        heads: Any = self.heads  # of type Head, which a ModuleList forgets
        seen = [head.embed(x, *even_grid(x)) for head, x in zip(heads, features[:-1], strict=True)]
        return [head.predict(x) for head, x in zip(heads, seen, strict=True)], seen
