"""AT: Zagoruyko & Komodakis, "Paying More Attention to Attention", ICLR 2017 (arXiv 1612.03928).

Lower stages imitate where a teacher is active; here the teacher is the model's own deepest map:
L = CE(z_K, y) + lambda * sum_{i<K} mean over positions of (q(F_i) - q(sg F_K))^2, q(F) = mean_c F^2 as a vector over
positions, divided by its L2 norm. The normalisation, the mean and lambda = 1000 are those of the authors' code.

Adapted: from a second network as teacher to the model's own top, so that maps differ in size: the larger map of
mean_c F^2 is average-pooled to the smaller. A target with a single position has no signal.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ssia_zoo.loss.base import StageShape, at_least_float32
from ssia_zoo.loss.rival import RivalLoss, spatial_pairs


class ATLoss(RivalLoss):
    """Attention transfer within one network: lower stages' activity maps, taught by the deepest; no heads, no labels.

    Args:
        shapes: Channels, height, width of each stage's map, lowest stage first; K >= 2 stages.
        num_classes: Width of the logits.

    Raises:
        ConfigError: If there are fewer than two stages, a shape or the class count is not positive, or the deepest
            map has a single position.
    """

    name = "at"
    source = "Paying More Attention to Attention (arXiv 1612.03928)"
    default_weight = 1000.0

    def __init__(self, shapes: Sequence[StageShape], num_classes: int) -> None:
        super().__init__(shapes, num_classes)
        deepest = len(self.shapes) - 1
        self.pairs = spatial_pairs("AT", self.shapes, [(low, deepest) for low in range(deepest)])

    def forward(self, features: Sequence[Tensor], logits: Tensor) -> dict[str, Tensor]:
        """Compute the objective; gradients reach the lower stages, never the deepest.

        Args:
            features: The stages' maps [B, C, H, W], lowest first.
            logits: Final logits [B, num_classes]; not used.

        Returns:
            "at": sum over the lower stages.
        """
        losses = []
        with torch.autocast(logits.device.type, enabled=False):
            for low, high in self.pairs:
                maps = [_energy(features[low]), _energy(features[high].detach())]
                grid = (min(m.shape[1] for m in maps), min(m.shape[2] for m in maps))
                lower, target = (F.normalize(F.adaptive_avg_pool2d(m, grid).flatten(1), dim=1) for m in maps)
                losses.append((lower - target).square().mean())
            return {"at": torch.stack(losses).sum()}


def _energy(feature: Tensor) -> Tensor:
    return at_least_float32(feature).square().mean(dim=1)
