"""DKS: Sun et al., "Deeply-Supervised Knowledge Synergy", CVPR 2019 (arXiv 1906.00675).

Deep supervision, in which every classifier, including the final one, also learns from all others:
L = CE(z_K, y) + lambda * [sum_{i<K} CE(z_i, y) + sum_{a!=b} KL(sg p_b || p_a)], p_a = softmax(z_a), a and b in 1..K.

Adapted: small heads, as for SSIA, instead of stacks of the network's own blocks; the task's own criterion for
CE(z_i, y).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssia_zoo.loss.base import LabelLoss, StageShape, at_least_float32
from ssia_zoo.loss.heads import StageClassifiers
from ssia_zoo.loss.rival import RivalLoss


class DKSLoss(RivalLoss):
    """Knowledge synergy: every lower stage learns the labels, and every classifier the predictions of all others.

    Args:
        shapes: Channels, height, width of each stage's feature map, lowest first; at least 2.
        num_classes: Width of the logits.
        hidden: Width of the heads, in channels.

    Raises:
        ConfigError: There are fewer than 2 stages, or a shape, `num_classes` or `hidden` is not positive.
    """

    name = "dks"
    uses_labels = True
    one_label = True
    gradient_to = ("lower", "logits")
    source = "Deeply-Supervised Knowledge Synergy (arXiv 1906.00675)"
    default_weight = 1.0

    def __init__(self, shapes: Sequence[StageShape], num_classes: int, hidden: int = 256) -> None:
        super().__init__(shapes, num_classes)
        with torch.random.fork_rng(devices=[]):
            self.classifiers = StageClassifiers(self.shapes, num_classes, hidden)

    def forward(self, features: Sequence[Tensor], logits: Tensor, label_loss: LabelLoss) -> dict[str, Tensor]:
        """Compute the objective; gradients reach the final logits, the lower stages and the heads.

        Args:
            features: Feature maps [B, C, H, W], lowest first.
            logits: Final logits [B, num_classes].
            label_loss: The task's criterion with this batch's targets.

        Returns:
            "labels", the sum over the lower stages; "synergy", the sum over the ordered pairs of classifiers; and
            "dks", the sum of both.
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
