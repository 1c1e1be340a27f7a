"""Metrics of images with several labels: timm's evaluator, and the threshold of its F1."""

from __future__ import annotations

from typing import Any

import torch
from timm.task import ClassificationEvaluator, MultiLabelClassificationEvaluator
from torch import Tensor

from ssia_zoo.data import EvalData
from ssia_zoo.data.splits import names_test_split

DEFAULT_THRESHOLD = 0.5
_THRESHOLDS = tuple(number / 100 for number in range(1, 100))


class MultiLabelEvaluator(MultiLabelClassificationEvaluator):  # type: ignore[misc]  # timm has no types
    """timm's evaluator, with a threshold that is chosen on the data, and mAP over the classes that have an image.

    Outputs that are minus infinity for all images, those of classes that the model lacks, do not count.

    Args:
        device: Device of the running totals.
        threshold: Probability from which a class counts as predicted; None to choose the one with the highest micro F1,
            in steps of 0.01.
    """

    def __init__(self, device: torch.device | None = None, threshold: float | None = DEFAULT_THRESHOLD) -> None:
        super().__init__(device, threshold=threshold or DEFAULT_THRESHOLD)
        self._chooses = threshold is None

    def update(self, output: Tensor, target: Tensor) -> None:
        """Add a batch of logits and targets [B, C]."""
        known = ~torch.isneginf(output).all(dim=0)
        super().update(output[:, known], target[:, known])

    def compute(self, distributed: bool = False) -> Any:
        """Return "loss", "map", "micro_f1", "macro_f1" and "sample_f1" (percent), and the "threshold" of F1."""
        if self.outputs and self._chooses:
            self.threshold = best_threshold(torch.cat(self.outputs), torch.cat(self.targets))
        metrics = super().compute(distributed)
        if self.targets:
            present = torch.cat(self.targets).any(dim=0)
            metrics["map"] *= len(present) / max(int(present.sum()), 1)  # timm counts the other classes as 0
        metrics["threshold"] = self.threshold
        return metrics


def best_threshold(logits: Tensor, targets: Tensor) -> float:
    """Return the threshold of the sigmoid with the highest micro F1; of equal ones, that nearest to 0.5.

    Args:
        logits: Logits [N, C].
        targets: Whether an image has a class [N, C].
    """
    probabilities, positives = logits.sigmoid(), int(targets.sum())

    def quality(threshold: float) -> tuple[float, float]:
        predicted = probabilities >= threshold
        true = int((predicted & targets).sum())
        return 2 * true / max(int(predicted.sum()) + positives, 1), -abs(threshold - DEFAULT_THRESHOLD)

    return max(_THRESHOLDS, key=quality)


def build_evaluator(data: EvalData, device: torch.device, threshold: float | None = None) -> ClassificationEvaluator:
    """Build the evaluator of a data set.

    Args:
        data: The evaluation images.
        device: Device of the model.
        threshold: For several labels an image: the threshold of F1; if None, it is chosen on these images, unless they
            are a test split, for which it is 0.5.
    """
    if not data.multi_label:
        return ClassificationEvaluator(device=device)
    if threshold is None and names_test_split(data.eval_name):
        threshold = DEFAULT_THRESHOLD
    return MultiLabelEvaluator(device, threshold)
