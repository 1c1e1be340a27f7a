"""BYOT: Zhang et al., "Be Your Own Teacher", ICCV 2019 (arXiv 1905.08094).

A classifier on each lower stage learns the labels, the final prediction and the deepest features:
L = CE(z_K, y) + lambda * sum_{i<K} [0.7 CE(z_i, y) + 0.3 CE(z_i / 3, softmax(sg z_K / 3)) + 0.03 ||W_i f_i - sg f_K||],
f_i what the i-th classifier's last linear map sees, f_K the deepest map's average over positions, W_i linear. The form
and its numbers are those of the authors' later code (without T^2, and with W_i); the paper has the square of the norm.

Adapted: heads of SSIA's cost in place of stacks of convolutions; the task's own criterion for CE(z_i, y); the hint at
every lower stage. The authors' code takes one norm over its batch of 128 images, which depends on the batch's size:
here it is sqrt(128) times the mean norm per image, the same where norms are equal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssia_zoo.loss.base import LabelLoss, StageShape, at_least_float32
from ssia_zoo.loss.heads import StageClassifiers
from ssia_zoo.loss.rival import RivalLoss, RivalSettings

_BATCH_OF_SOURCE = 128


@dataclass(frozen=True)
class BYOTSettings(RivalSettings):
    """BYOT's own settings."""

    labels: float = 0.7
    """weight of the labels"""
    distillation: float = 0.3
    """weight of the final prediction"""
    hint: float = 0.03
    """weight of the deepest features"""
    temperature: float = 3.0
    """of the final prediction"""
    hidden: int = 256
    """width of the heads, in channels"""


class BYOTLoss(RivalLoss):
    """Self-distillation: labels, final prediction and deepest features, at every lower stage.

    Args:
        shapes: Channels, height, width of each stage's map, lowest stage first; K >= 2 stages.
        num_classes: Width of the logits.
        settings: Choices.

    Raises:
        ConfigError: If there are fewer than two stages, or a shape or the class count is not positive.
    """

    name = "byot"
    uses_labels = True
    source = "Be Your Own Teacher (arXiv 1905.08094)"
    default_weight = 1.0

    def __init__(self, shapes: Sequence[StageShape], num_classes: int, settings: BYOTSettings | None = None) -> None:
        super().__init__(shapes, num_classes)
        self.settings = settings or BYOTSettings()
        hidden, deepest = self.settings.hidden, self.shapes[-1]
        with torch.random.fork_rng(devices=[]):
            self.classifiers = StageClassifiers(self.shapes, num_classes, hidden)
            self.hints = nn.ModuleList(nn.Linear(hidden, deepest[0]) for _ in self.shapes[:-1])

    def forward(self, features: Sequence[Tensor], logits: Tensor, label_loss: LabelLoss) -> dict[str, Tensor]:
        """Compute the objective; gradients reach the lower stages and the heads, never the deepest map or the logits.

        Args:
            features: The stages' maps [B, C, H, W], lowest first.
            logits: Final logits [B, num_classes].
            label_loss: The task's criterion on this batch's targets.

        Returns:
            "labels", "distillation" and "hint", each the sum over the lower stages, and "byot", their weighted sum.
        """
        temperature = self.settings.temperature
        with torch.autocast(logits.device.type, enabled=False):
            predictions, seen = self.classifiers(features)
            soft = torch.softmax(at_least_float32(logits.detach()) / temperature, dim=1)
            deepest = at_least_float32(features[-1].detach()).mean(dim=(2, 3))
            gaps = [hint(x) - deepest for hint, x in zip(self.hints, seen, strict=True)]
            norms = [torch.linalg.vector_norm(gap, dim=1).mean() for gap in gaps]
            terms = {
                "labels": torch.stack([label_loss(z) for z in predictions]).sum(),
                "distillation": torch.stack([F.cross_entropy(z / temperature, soft) for z in predictions]).sum(),
                "hint": math.sqrt(_BATCH_OF_SOURCE) * torch.stack(norms).sum(),
            }
            terms["byot"] = torch.stack([getattr(self.settings, name) * term for name, term in terms.items()]).sum()
        return terms
