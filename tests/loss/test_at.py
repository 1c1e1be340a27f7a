"""AT within one network: values against its formula in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssia_zoo.loss import ATLoss
from tests.helpers.numpy_model import CLASSES, SHAPES, array, inputs


def q(energy: np.ndarray) -> np.ndarray:
    flat = energy.reshape(len(energy), -1)
    return flat / np.sqrt((flat**2).sum(axis=1, keepdims=True))


def test_each_lower_stage_is_pooled_and_compared_with_the_deepest() -> None:
    features, logits, _ = inputs()
    low, middle, top = ((array(feature) ** 2).mean(axis=1) for feature in features)
    pooled = [low.reshape(3, 2, 4, 2, 2).mean(axis=(2, 4)), middle.reshape(3, 2, 2, 2, 2).mean(axis=(2, 4))]
    expected = sum(((q(lower) - q(top)) ** 2).mean() for lower in pooled)
    terms = ATLoss(SHAPES, CLASSES)(features, logits)
    assert terms.keys() == {"at"}
    assert terms["at"].item() == pytest.approx(expected, rel=1e-5)


def test_a_larger_teacher_is_pooled_to_the_stage() -> None:
    features = [torch.rand(2, 3, 2, 2), torch.rand(2, 4, 4, 4)]
    low, top = ((array(feature) ** 2).mean(axis=1) for feature in features)
    expected = ((q(low) - q(top.reshape(2, 2, 2, 2, 2).mean(axis=(2, 4)))) ** 2).mean()
    loss = ATLoss([(3, 2, 2), (4, 4, 4)], CLASSES)
    assert loss(features, torch.zeros(2, CLASSES))["at"].item() == pytest.approx(expected, rel=1e-5)


def test_maps_that_differ_only_in_scale_have_no_loss() -> None:
    feature = torch.rand(2, 3, 4, 4)
    loss = ATLoss([(3, 4, 4), (3, 4, 4)], CLASSES)
    assert loss([feature, 5 * feature], torch.zeros(2, CLASSES))["at"].item() == pytest.approx(0, abs=1e-12)
    dead = [torch.zeros(2, 3, 4, 4, requires_grad=True), feature]
    loss(dead, torch.zeros(2, CLASSES))["at"].backward()
    assert dead[0].grad is not None
    assert dead[0].grad.isfinite().all()
