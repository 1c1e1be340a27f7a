"""DKS: Sun et al., "Deeply-Supervised Knowledge Synergy", CVPR 2019 (arXiv 1906.00675).

Deep supervision, and every classifier, the final one too, learns from every other:
L = CE(z_K, y) + lambda * [sum_{i<K} CE(z_i, y) + sum_{a!=b} KL(sg p_b || p_a)], p_a = softmax(z_a), a and b in 1..K.

Adapted: heads of SSIA's cost in place of stacks of the network's own blocks; the task's own criterion for CE(z_i, y).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssia_zoo.loss.base import LabelLoss, StageShape, at_least_float32
from ssia_zoo.loss.heads import StageClassifiers
from ssia_zoo.loss.rival import RivalLoss, RivalSettings


@dataclass(frozen=True)
class DKSSettings(RivalSettings):
    """DKS's own settings."""

    hidden: int = 256
    """width of the heads, in channels"""


class DKSLoss(RivalLoss):
    """Knowledge synergy: the labels at every lower stage, and all classifiers' predictions for one another.

    Args:
        shapes: Channels, height, width of each stage's map, lowest stage first; K >= 2 stages.
        num_classes: Width of the logits.
        settings: Choices.

    Raises:
        ConfigError: If there are fewer than two stages, or a shape or the class count is not positive.
    """

    name = "dks"
    uses_labels = True
    source = "Deeply-Supervised Knowledge Synergy (arXiv 1906.00675)"
    default_weight = 1.0

    def __init__(self, shapes: Sequence[StageShape], num_classes: int, settings: DKSSettings | None = None) -> None:
        super().__init__(shapes, num_classes)
        self.settings = settings or DKSSettings()
        with torch.random.fork_rng(devices=[]):
            self.classifiers = StageClassifiers(self.shapes, num_classes, self.settings.hidden)

    def forward(self, features: Sequence[Tensor], logits: Tensor, label_loss: LabelLoss) -> dict[str, Tensor]:
        """Compute the objective; gradients reach the final logits, the lower stages and the heads.

        Args:
            features: The stages' maps [B, C, H, W], lowest first.
            logits: Final logits [B, num_classes].
            label_loss: The task's criterion on this batch's targets.

        Returns:
            "labels", summed over the lower stages, "synergy", summed over the ordered pairs of classifiers, and "dks",
            their sum.
        """
        with torch.autocast(logits.device.type, enabled=False):
            predictions, _ = self.classifiers(features)
            log_p = [torch.log_softmax(z, dim=1) for z in (*predictions, at_least_float32(logits))]
            pairs = [
                F.kl_div(student, teacher.detach(), reduction="batchmean", log_target=True)
                for student, teacher in permutations(log_p, 2)
            ]
            terms = {
                "labels": torch.stack([label_loss(z) for z in predictions]).sum(),
                "synergy": torch.stack(pairs).sum(),
            }
            terms["dks"] = terms["labels"] + terms["synergy"]
        return terms
