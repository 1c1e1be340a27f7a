"""SAD: Hou et al., "Learning Lightweight Lane Detection CNNs by Self Attention Distillation" (arXiv 1908.00821).

Each stage matches the spatial activity of the next higher stage:
L = CE(z_K, y) + lambda * sum_{i<K} ||A(F_i) - A(up(sg F_{i+1}))||^2, where A(F) is the softmax over positions of
mean_c F^2 and up is bilinear upsampling to the size of F_i. Lambda is that of the paper.

Adapted: from lane detection to any classifier, and active from the start of training (a schedule can delay it). Squares
are summed over positions: their mean, as in public code, is near zero, as A's values are about 1 / (H * W). Pairs whose
target has one position give no signal and are skipped.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ssia_zoo.loss.base import StageShape, at_least_float32
from ssia_zoo.loss.rival import RivalLoss, spatial_pairs


class SADLoss(RivalLoss):
    """Self attention distillation: each stage learns the spatial activity of the next; without heads or labels.

    Args:
        shapes: Channels, height, width of each stage's feature map, lowest first; at least 2.
        num_classes: Width of the logits.

    Raises:
        ConfigError: There are fewer than 2 stages, a shape or `num_classes` is not positive, or no pair has a signal.
    """

    name = "sad"
    source = "Learning Lightweight Lane Detection CNNs by Self Attention Distillation (arXiv 1908.00821)"
    default_weight = 0.1

    def __init__(self, shapes: Sequence[StageShape], num_classes: int) -> None:
        super().__init__(shapes, num_classes)
        self.pairs = spatial_pairs("SAD", self.shapes, [(low, low + 1) for low in range(len(self.shapes) - 1)])

    def forward(self, features: Sequence[Tensor], logits: Tensor) -> dict[str, Tensor]:
        """Compute the objective; gradients reach the lower stage of each pair.

        Args:
            features: Feature maps [B, C, H, W], lowest first.
            logits: Final logits [B, num_classes]; not used.

        Returns:
            "sad": sum over the pairs.
        """
        losses = []
        with torch.autocast(logits.device.type, enabled=False):
            for low, high in self.pairs:
                lower = features[low]
                target = F.interpolate(features[high].detach(), lower.shape[2:], mode="bilinear")
                losses.append((_attention(lower) - _attention(target)).square().sum(dim=1).mean())
            return {"sad": torch.stack(losses).sum()}


def _attention(feature: Tensor) -> Tensor:
    return torch.softmax(at_least_float32(feature).square().mean(dim=1).flatten(1), dim=1)
