"""BYOT: Zhang et al., "Be Your Own Teacher", ICCV 2019 (arXiv 1905.08094).

A classifier on each lower stage learns the labels, the final prediction and the deepest features:
L = CE(z_K, y) + lambda * sum_{i<K} [0.7 CE(z_i, y) + 0.3 CE(z_i / 3, softmax(sg z_K / 3)) + 0.03 ||W_i f_i - sg f_K||],
where f_i is the input of classifier i's last linear layer, f_K the deepest feature map averaged over positions, and W_i
linear. Form and constants follow the authors' later code (no T^2, linear W_i); the paper squares the norm.

Heads: pooled, small ones as for SSIA; or convolutional, the source's bottlenecks (1x1, kxk with stride k and 1x1
convolution), with the 128 channels between them that the authors' later code has (`ScalaNet`), but GroupNorm in place
of BatchNorm. That code replaced them by separable convolutions and attention modules, which are not of this paper.

Adapted: the task's own criterion for CE(z_i, y); the hint at every lower stage, with W_i for either heads. The authors'
code takes one norm over its batch of 128 images, which depends on the batch size; here it is sqrt(128) times the mean
norm per image, which is equal where all norms are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssia_zoo.loss.base import LabelLoss, StageShape, at_least_float32
from ssia_zoo.loss.convolutions import Classifiers, ConvolutionalClassifiers, Heads, bottleneck, check_heads
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
        hidden: Width of the heads, in channels; 256 if pooled, 128 if convolutional.
        heads: "pooled", or "convolutional" as in the source.

    Raises:
        ConfigError: There are fewer than 2 stages, a shape, `num_classes` or `hidden` is not positive, or `heads` is
            unknown.
    """

    name = "byot"
    uses_labels = True
    one_label = True
    source = "Be Your Own Teacher (arXiv 1905.08094)"
    default_weight = 1.0

    def __init__(
        self, shapes: Sequence[StageShape], num_classes: int, hidden: int | None = None, heads: Heads = "pooled"
    ) -> None:
        super().__init__(shapes, num_classes)
        check_heads(heads)
        self.classifiers: Classifiers
        *lower, deepest = self.shapes
        with torch.random.fork_rng(devices=[]):
            if heads == "pooled":
                width = 256 if hidden is None else hidden
                self.classifiers = StageClassifiers(self.shapes, num_classes, width)
            else:
                width = deepest[0]
                stacks = [bottleneck(shape, deepest, 128 if hidden is None else hidden) for shape in lower]
                self.classifiers = ConvolutionalClassifiers(stacks, width, num_classes)
            self.hints = nn.ModuleList(nn.Linear(width, deepest[0]) for _ in lower)

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
