"""DKS: values against its formula in numpy, and gradients to the final logits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ssia_zoo.loss import DKSLoss
from tests.helpers.numpy_model import (
    CLASSES,
    SHAPES,
    array,
    cross_entropy,
    divergence,
    head,
    inputs,
    log_softmax,
    softmax,
)


def test_every_classifier_learns_from_every_other() -> None:
    features, logits, labels = inputs()
    loss = DKSLoss(SHAPES, CLASSES)
    terms = loss(features, logits, lambda z: F.cross_entropy(z, labels))
    lower = [head(module, feature)[0] for module, feature in zip(loss.classifiers.heads, features[:-1], strict=True)]
    every = [*lower, array(logits)]
    expected = {
        "labels": sum(cross_entropy(z, labels.numpy()) for z in lower),
        "synergy": sum(divergence(softmax(b), log_softmax(a)) for a in every for b in every if a is not b),
    }
    expected["dks"] = expected["labels"] + expected["synergy"]
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-5)


def test_the_final_logits_get_gradients_as_students_and_none_as_teachers() -> None:
    """KL(sg p_b || p_a) has the gradient (p_a - p_b) / batch in z_a, and none in z_b."""
    features, logits, labels = inputs()
    logits.requires_grad_()
    loss = DKSLoss(SHAPES, CLASSES)
    terms = loss(features, logits, lambda z: F.cross_entropy(z, labels))
    (gradient,) = torch.autograd.grad(terms["dks"], logits)
    p = softmax(array(logits))
    lower = [head(module, feature)[0] for module, feature in zip(loss.classifiers.heads, features[:-1], strict=True)]
    expected = sum(p - softmax(z) for z in lower) / len(p)
    torch.testing.assert_close(gradient.double(), torch.from_numpy(expected), rtol=1e-4, atol=1e-6)
