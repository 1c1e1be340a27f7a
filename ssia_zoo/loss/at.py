"""AT: Zagoruyko & Komodakis, "Paying More Attention to Attention", ICLR 2017 (arXiv 1612.03928).

Lower stages match the spatial activity of a teacher; here the teacher is the model's own deepest feature map:
L = CE(z_K, y) + lambda * sum_{i<K} mean over positions of (q(F_i) - q(sg F_K))^2, where q(F) is mean_c F^2 as a vector
over positions, divided by its L2 norm. The normalization, the mean and lambda = 1000 follow the authors' code.

Adapted: the teacher is not a second network, so that feature maps differ in size: the larger map of mean_c F^2 is
average-pooled to the size of the smaller. A target with one position gives no signal.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ssia_zoo.loss.base import StageShape, at_least_float32
from ssia_zoo.loss.rival import RivalLoss, spatial_pairs


class ATLoss(RivalLoss):
    """Attention transfer within one network, from the deepest stage to the lower ones; without heads or labels.

    Args:
        shapes: Channels, height, width of each stage's feature map, lowest first; at least 2.
        num_classes: Width of the logits.

    Raises:
        ConfigError: There are fewer than 2 stages, a shape or `num_classes` is not positive, or the deepest feature map
            has one position.
    """

    name = "at"
    source = "Paying More Attention to Attention (arXiv 1612.03928)"
    default_weight = 1000.0

    def __init__(self, shapes: Sequence[StageShape], num_classes: int) -> None:
        super().__init__(shapes, num_classes)
        deepest = len(self.shapes) - 1
        self.pairs = spatial_pairs("AT", self.shapes, [(low, deepest) for low in range(deepest)])

    def forward(self, features: Sequence[Tensor], logits: Tensor) -> dict[str, Tensor]:
        """Compute the objective; gradients reach the lower stages, not the deepest.

        Args:
            features: Feature maps [B, C, H, W], lowest first.
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
