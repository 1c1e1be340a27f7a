"""Class weights in the task loss: of plain, mixed and smoothed labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ssia_zoo.loss import ClassWeightedLoss

WEIGHTS = torch.tensor([0.25, 1.0, 4.0])
LOGITS = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([2, 0, 0, 1, 2])
PER_IMAGE = nn.CrossEntropyLoss(reduction="none")


def test_an_image_counts_as_its_class_does() -> None:
    expected = sum(WEIGHTS[y] * F.cross_entropy(z, y) for z, y in zip(LOGITS, LABELS, strict=True)) / 5
    torch.testing.assert_close(ClassWeightedLoss(PER_IMAGE, WEIGHTS)(LOGITS, LABELS), expected)


def test_two_halves_of_a_batch_have_the_mean_of_the_whole() -> None:
    loss = ClassWeightedLoss(PER_IMAGE, WEIGHTS)
    halves = (loss(LOGITS[:2], LABELS[:2]) + loss(LOGITS[2:4], LABELS[2:4])) / 2
    torch.testing.assert_close(halves, loss(LOGITS[:4], LABELS[:4]))


def test_a_mixed_image_has_the_mean_of_the_weights_by_its_shares() -> None:
    one, other = F.one_hot(LABELS, 3).float(), F.one_hot(LABELS.flip(0), 3).float()
    mixed = 0.3 * one + 0.7 * other
    expected = 0.3 * WEIGHTS[LABELS] + 0.7 * WEIGHTS[LABELS.flip(0)]
    actual = ClassWeightedLoss(PER_IMAGE, WEIGHTS)(LOGITS, mixed)
    torch.testing.assert_close(actual, (expected * PER_IMAGE(LOGITS, mixed)).mean())
    smoothed = 0.9 * mixed + 0.1 / 3  # as timm's Mixup does
    actual = ClassWeightedLoss(PER_IMAGE, WEIGHTS, smoothing=0.1)(LOGITS, smoothed)
    torch.testing.assert_close(actual, (expected * PER_IMAGE(LOGITS, smoothed)).mean())


def test_the_weights_are_not_saved() -> None:
    assert not ClassWeightedLoss(PER_IMAGE, WEIGHTS).state_dict()
