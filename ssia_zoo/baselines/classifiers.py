"""Training-only classifiers on a network's lower stages, for the rivals that have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ssia_zoo.auxiliary import StageShape
from ssia_zoo.ssia import Head, even_grid


class StageClassifiers(nn.Module):
    """A classifier on each stage but the deepest: the head of SSIA's semantic signal, at its cost.

    Args:
        shapes: Channels, height, width of each stage's map, lowest stage first.
        num_classes: Width of the logits.
        hidden: Width of the heads, in channels.
    """

    def __init__(self, shapes: Sequence[StageShape], num_classes: int, hidden: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(Head(shape[0], hidden, num_classes) for shape in shapes[:-1])

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Classify from each lower stage.

        Args:
            features: The stages' maps [B, C, H, W], lowest first; the deepest is not looked at.

        Returns:
            Each lower stage's logits [B, num_classes], and what its last linear map sees [B, hidden].
        """
        heads: Any = self.heads  # of type Head, which a ModuleList forgets
        seen = [head.embed(x, *even_grid(x)) for head, x in zip(heads, features[:-1], strict=True)]
        return [head.predict(x) for head, x in zip(heads, seen, strict=True)], seen
