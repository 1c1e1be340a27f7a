"""DKS: Sun et al., "Deeply-Supervised Knowledge Synergy", CVPR 2019 (arXiv 1906.00675).

Deep supervision, in which every classifier, including the final one, also learns from all others:
L = CE(z_K, y) + lambda * [sum_{i<K} CE(z_i, y) + sum_{a!=b} KL(sg p_b || p_a)], p_a = softmax(z_a), a and b in 1..K.

Heads: pooled, small ones as for SSIA; or convolutional, like the source's, which repeat the stages above in blocks of
the network's own kind, then pool and classify. Reconstructed: the authors' code has them for Wide ResNets, in
pre-activation blocks (WRN-28-10: 4 blocks per stage, or 2, and twice the width in one branch). Here they are such
blocks for any network, one per stage, with the network's own channels, and GroupNorm in place of BatchNorm.

Adapted: the task's own criterion for CE(z_i, y).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssia_zoo.errors import ConfigError
from ssia_zoo.loss.base import LabelLoss, StageShape, at_least_float32
from ssia_zoo.loss.convolutions import Classifiers, ConvolutionalClassifiers, Heads, ResidualStages, check_heads
from ssia_zoo.loss.heads import StageClassifiers
from ssia_zoo.loss.rival import RivalLoss


class DKSLoss(RivalLoss):
    """Knowledge synergy: every lower stage learns the labels, and every classifier the predictions of all others.

    Args:
        shapes: Channels, height, width of each stage's feature map, lowest first; at least 2.
        num_classes: Width of the logits.
        hidden: Width of pooled heads, in channels; 256 if None.
        heads: "pooled", or "convolutional" as in the source.

    Raises:
        ConfigError: There are fewer than 2 stages, a shape, `num_classes` or `hidden` is not positive, `heads` is
            unknown, or `hidden` is given for convolutional heads.
    """

    name = "dks"
    uses_labels = True
    one_label = True
    gradient_to = ("lower", "logits")
    source = "Deeply-Supervised Knowledge Synergy (arXiv 1906.00675)"
    default_weight = 1.0

    def __init__(
        self, shapes: Sequence[StageShape], num_classes: int, hidden: int | None = None, heads: Heads = "pooled"
    ) -> None:
        super().__init__(shapes, num_classes)
        check_heads(heads)
        self.classifiers: Classifiers
        with torch.random.fork_rng(devices=[]):
            if heads == "pooled":
                self.classifiers = StageClassifiers(self.shapes, num_classes, 256 if hidden is None else hidden)
            elif hidden is None:
                stacks = [ResidualStages(self.shapes[stage:]) for stage in range(len(self.shapes) - 1)]
                self.classifiers = ConvolutionalClassifiers(stacks, self.shapes[-1][0], num_classes)
            else:
                raise ConfigError(
                    f"hidden is {hidden}; convolutional heads have the network's own widths: leave it out"
                )

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
