"""SAD: values against its formula in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssia_zoo.loss import SADLoss
from tests.helpers.numpy_model import CLASSES, SHAPES, array, inputs, softmax


def doubled(x: np.ndarray, axis: int) -> np.ndarray:
    """Bilinear upsampling to twice the length: weights 3/4 and 1/4, edges repeated."""
    x = np.moveaxis(x, axis, 0)
    before, after = np.concatenate([x[:1], x[:-1]]), np.concatenate([x[1:], x[-1:]])
    pairs = np.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis=1)
    return np.moveaxis(pairs.reshape(-1, *x.shape[1:]), 0, axis)


def attention(x: np.ndarray) -> np.ndarray:
    return softmax((x**2).mean(axis=1).reshape(len(x), -1))


def test_each_stage_is_compared_with_the_next_one_upsampled() -> None:
    features, logits, _ = inputs()
    low, middle, top = (array(feature) for feature in features)
    targets = [doubled(middle, axis=2), doubled(doubled(top, axis=2), axis=3)]  # 4x4 to 8x4; 2x2 to 4x4
    expected = sum(
        ((attention(lower) - attention(target)) ** 2).sum(axis=1).mean()
        for lower, target in zip((low, middle), targets, strict=True)
    )
    terms = SADLoss(SHAPES, CLASSES)(features, logits)
    assert terms.keys() == {"sad"}
    assert terms["sad"].item() == pytest.approx(expected, rel=1e-5)


def test_a_pair_whose_target_has_one_position_is_skipped() -> None:
    shapes = [*SHAPES, (7, 1, 1)]
    loss = SADLoss(shapes, CLASSES)
    assert loss.pairs == [(0, 1), (1, 2)]
    features, logits, _ = inputs()
    with_top = loss([*features, torch.randn(3, 7, 1, 1)], logits)
    assert torch.equal(with_top["sad"], SADLoss(SHAPES, CLASSES)(features, logits)["sad"])


def test_the_middle_stage_learns_from_the_top_only() -> None:
    features, logits, _ = inputs()
    features = [feature.requires_grad_() for feature in features]
    loss = SADLoss(SHAPES, CLASSES)
    gradient = torch.autograd.grad(loss(features, logits)["sad"], features[1])[0]
    other = [2 * features[0].detach(), *features[1:]]
    assert torch.equal(torch.autograd.grad(loss(other, logits)["sad"], features[1])[0], gradient)
