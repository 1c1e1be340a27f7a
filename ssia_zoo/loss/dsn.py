"""DSN: Lee et al., "Deeply-Supervised Nets", AISTATS 2015 (arXiv 1409.5185).

A classifier on each lower stage learns the labels, without stop-gradient:
L = CE(z_K, y) + lambda * sum_{i<K} CE(z_i, y).

Adapted: the task's own criterion instead of the squared hinge loss (later work uses cross-entropy); one lambda for all
stages, which decays only if its schedule does; small heads, as for SSIA.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssia_zoo.loss.base import LabelLoss, StageShape
from ssia_zoo.loss.heads import StageClassifiers
from ssia_zoo.loss.rival import RivalLoss


class DSNLoss(RivalLoss):
    """Deep supervision: every lower stage learns the labels.

    Args:
        shapes: Channels, height, width of each stage's feature map, lowest first; at least 2.
        num_classes: Width of the logits.
        hidden: Width of the heads, in channels.

    Raises:
        ConfigError: There are fewer than 2 stages, or a shape, `num_classes` or `hidden` is not positive.
    """

    name = "dsn"
    uses_labels = True
    source = "Deeply-Supervised Nets (arXiv 1409.5185)"
    default_weight = 1.0  # a lower stage counts as much as the final logits; the source's weight decays

    def __init__(self, shapes: Sequence[StageShape], num_classes: int, hidden: int = 256) -> None:
        super().__init__(shapes, num_classes)
        with torch.random.fork_rng(devices=[]):
            self.classifiers = StageClassifiers(self.shapes, num_classes, hidden)

    def forward(self, features: Sequence[Tensor], logits: Tensor, label_loss: LabelLoss) -> dict[str, Tensor]:
        """Compute the objective.

        Args:
            features: Feature maps [B, C, H, W], lowest first.
            logits: Final logits [B, num_classes]; not used.
            label_loss: The task's criterion with this batch's targets.

        Returns:
            "dsn": sum over the lower stages.
        """
        with torch.autocast(logits.device.type, enabled=False):
            predictions, _ = self.classifiers(features)
            return {"dsn": torch.stack([label_loss(prediction) for prediction in predictions]).sum()}
