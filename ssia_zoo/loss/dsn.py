"""DSN: Lee et al., "Deeply-Supervised Nets", AISTATS 2015 (arXiv 1409.5185).

A classifier on each lower stage learns the labels: L = CE(z_K, y) + lambda * sum_{i<K} CE(z_i, y), without
stop-gradient.

Adapted: cross-entropy in place of the source's squared hinge loss, as later work has it, and the task's own criterion,
whatever it is; one weight for all stages, which does not decay unless its schedule says so; heads of SSIA's cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssia_zoo.loss.base import LabelLoss, StageShape
from ssia_zoo.loss.heads import StageClassifiers
from ssia_zoo.loss.rival import RivalLoss, RivalSettings


@dataclass(frozen=True)
class DSNSettings(RivalSettings):
    """DSN's own settings."""

    hidden: int = 256
    """width of the heads, in channels"""


class DSNLoss(RivalLoss):
    """Deep supervision: the labels, at every lower stage.

    Args:
        shapes: Channels, height, width of each stage's map, lowest stage first; K >= 2 stages.
        num_classes: Width of the logits.
        settings: Choices.

    Raises:
        ConfigError: If there are fewer than two stages, or a shape or the class count is not positive.
    """

    name = "dsn"
    uses_labels = True
    source = "Deeply-Supervised Nets (arXiv 1409.5185)"
    default_weight = 1.0  # a stage's labels count as much as the final ones; the source's weight decays

    def __init__(self, shapes: Sequence[StageShape], num_classes: int, settings: DSNSettings | None = None) -> None:
        super().__init__(shapes, num_classes)
        self.settings = settings or DSNSettings()
        with torch.random.fork_rng(devices=[]):
            self.classifiers = StageClassifiers(self.shapes, num_classes, self.settings.hidden)

    def forward(self, features: Sequence[Tensor], logits: Tensor, label_loss: LabelLoss) -> dict[str, Tensor]:
        """Compute the objective.

        Args:
            features: The stages' maps [B, C, H, W], lowest first.
            logits: Final logits [B, num_classes]; not used.
            label_loss: The task's criterion on this batch's targets.

        Returns:
            "dsn": sum of the lower stages' losses.
        """
        with torch.autocast(logits.device.type, enabled=False):
            predictions, _ = self.classifiers(features)
            return {"dsn": torch.stack([label_loss(prediction) for prediction in predictions]).sum()}
