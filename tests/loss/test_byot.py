"""BYOT: values against its formula in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ssia_zoo.loss import BYOTLoss
from tests.helpers.numpy_model import CLASSES, SHAPES, array, cross_entropy, head, inputs, softmax


def test_lower_stages_learn_labels_prediction_and_deepest_features() -> None:
    features, logits, labels = inputs()
    loss = BYOTLoss(SHAPES, CLASSES)
    terms = loss(features, logits, lambda z: F.cross_entropy(z, labels))
    expected = {"labels": 0.0, "distillation": 0.0, "hint": 0.0}
    soft = softmax(array(logits) / 3)
    deepest = array(features[-1]).mean(axis=(2, 3))
    for module, hint, feature in zip(loss.classifiers.heads, loss.hints, features[:-1], strict=True):
        z, seen = head(module, feature)
        expected["labels"] += cross_entropy(z, labels.numpy())
        expected["distillation"] += cross_entropy(z / 3, soft)
        gap = seen @ array(hint.weight).T + array(hint.bias) - deepest
        expected["hint"] += np.sqrt(128) * np.sqrt((gap**2).sum(axis=1)).mean()
    expected["byot"] = 0.7 * expected["labels"] + 0.3 * expected["distillation"] + 0.03 * expected["hint"]
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-5)


def test_the_hint_equals_that_of_the_source_for_a_batch_of_equal_images() -> None:
    features, logits, _ = inputs(batch=1)
    features = [feature.expand(128, -1, -1, -1) for feature in features]
    loss = BYOTLoss(SHAPES, CLASSES)
    terms = loss(features, logits.expand(128, -1), lambda z: z.sum())
    seen = [torch.from_numpy(head(m, x)[1]).float() for m, x in zip(loss.classifiers.heads, features, strict=False)]
    deepest = features[-1].mean(dim=(2, 3))
    source = sum(torch.dist(hint(x), deepest) for hint, x in zip(loss.hints, seen, strict=True))
    torch.testing.assert_close(terms["hint"], source)
