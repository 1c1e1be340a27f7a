"""DSN: values against its formula in numpy."""

from __future__ import annotations

import pytest
import torch.nn.functional as F

from ssia_zoo.loss import DSNLoss
from tests.helpers.numpy_model import CLASSES, SHAPES, cross_entropy, head, inputs


def test_every_lower_stage_learns_the_labels() -> None:
    features, logits, labels = inputs()
    loss = DSNLoss(SHAPES, CLASSES)
    heads = loss.classifiers.heads
    assert len(heads) == 2
    predictions = [head(module, feature)[0] for module, feature in zip(heads, features[:-1], strict=True)]
    terms = loss(features, logits, lambda z: F.cross_entropy(z, labels))
    assert terms.keys() == {"dsn"}
    assert terms["dsn"].item() == pytest.approx(sum(cross_entropy(z, labels.numpy()) for z in predictions), rel=1e-5)
