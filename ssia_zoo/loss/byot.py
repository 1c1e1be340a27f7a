"""BYOT: Zhang et al., "Be Your Own Teacher", ICCV 2019 (arXiv 1905.08094).

A classifier on each lower stage learns the labels, the final prediction and the deepest features:
L = CE(z_K, y) + lambda * sum_{i<K} [0.7 CE(z_i, y) + 0.3 CE(z_i / 3, softmax(sg z_K / 3)) + 0.03 ||W_i f_i - sg f_K||],
where f_i is the input of classifier i's last linear layer, f_K the deepest feature map averaged over positions, and W_i
linear. Form and constants follow the authors' later code (no T^2, linear W_i); the paper squares the norm.

Adapted: small heads, as for SSIA, instead of stacks of convolutions; the task's own criterion for CE(z_i, y); the hint
at every lower stage. The authors' code takes one norm over its batch of 128 images, which depends on the batch size;
here it is sqrt(128) times the mean norm per image, which is equal where all norms are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssia_zoo.loss.base import LabelLoss, StageShape, at_least_float32
from ssia_zoo.loss.heads import StageClassifiers
from ssia_zoo.loss.rival import RivalLoss

_WEIGHTS = {"labels": 0.7, "distillation": 0.3, "hint": 0.03}
_TEMPERATURE = 3.0
_BATCH_OF_SOURCE = 128


class BYOTLoss(RivalLoss):
    """Self-distillation: every lower stage learns the labels, the final prediction and the deepest features.

    Args:
        shapes: Channels, height, width of each stage's feature map, lowest first; at least 2.
        num_classes: Width of the logits.
        hidden: Width of the heads, in channels.

    Raises:
        ConfigError: There are fewer than 2 stages, or a shape, `num_classes` or `hidden` is not positive.
    """

    name = "byot"
    uses_labels = True
    one_label = True
    source = "Be Your Own Teacher (arXiv 1905.08094)"
    default_weight = 1.0

    def __init__(self, shapes: Sequence[StageShape], num_classes: int, hidden: int = 256) -> None:
        super().__init__(shapes, num_classes)
        with torch.random.fork_rng(devices=[]):
            self.classifiers = StageClassifiers(self.shapes, num_classes, hidden)
            self.hints = nn.ModuleList(nn.Linear(hidden, self.shapes[-1][0]) for _ in self.shapes[:-1])

    def forward(self, features: Sequence[Tensor], logits: Tensor, label_loss: LabelLoss) -> dict[str, Tensor]:
        """Compute the objective; gradients reach the lower stages and the heads, not the deepest map or the logits.

        Args:
            features: Feature maps [B, C, H, W], lowest first.
            logits: Final logits [B, num_classes].
            label_loss: The task's criterion with this batch's targets.

        Returns:
            "labels", "distillation" and "hint", each the sum over the lower stages, and "byot", their weighted sum.
        """
        with torch.autocast(logits.device.type, enabled=False):
            predictions, embeddings = self.classifiers(features)
            soft = torch.softmax(at_least_float32(logits.detach()) / _TEMPERATURE, dim=1)
            deepest = at_least_float32(features[-1].detach()).mean(dim=(2, 3))
            gaps = [hint(x) - deepest for hint, x in zip(self.hints, embeddings, strict=True)]
            norms = [torch.linalg.vector_norm(gap, dim=1).mean() for gap in gaps]
            terms = {
                "labels": torch.stack([label_loss(z) for z in predictions]).sum(),
                "distillation": torch.stack([F.cross_entropy(z / _TEMPERATURE, soft) for z in predictions]).sum(),
                "hint": math.sqrt(_BATCH_OF_SOURCE) * torch.stack(norms).sum(),
            }
            terms["byot"] = torch.stack([_WEIGHTS[name] * term for name, term in terms.items()]).sum()
        return terms
