"""Properties of every rival: where gradients go, and what the result does not depend on."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssia_zoo.errors import ConfigError
from ssia_zoo.loss import DSNLoss, RivalConfig, RivalLoss
from ssia_zoo.training.methods import RIVALS
from tests.helpers.numpy_model import CLASSES, SHAPES, inputs

each_rival = pytest.mark.parametrize("rival", RIVALS.values(), ids=RIVALS.keys())


def make(rival: type[RivalLoss], shapes: Any = SHAPES) -> RivalLoss:
    torch.manual_seed(0)
    return rival(shapes, CLASSES)


def terms_of(loss: RivalLoss, features: list[Tensor], logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Call a loss, with labels only if it uses them."""
    label_loss = (lambda z: F.cross_entropy(z, labels),) if loss.uses_labels else ()
    terms: dict[str, Tensor] = loss(features, logits, *label_loss)
    return terms


@each_rival
def test_gradients_reach_every_lower_stage_and_head_but_no_teacher(rival: type[RivalLoss]) -> None:
    loss = make(rival)
    features, logits, labels = inputs()
    tensors = [tensor.requires_grad_() for tensor in (*features, logits)]
    terms_of(loss, features, logits, labels)[loss.name].backward()
    *lower, top, final = (tensor.grad for tensor in tensors)
    assert top is None
    assert (final is None) == (rival.name != "dks")  # whose final classifier is a student, too
    for gradient in lower:
        assert gradient is not None
        assert (gradient.flatten(1).abs().sum(dim=1) > 0).all(), "an image got no gradient"
    for name, parameter in loss.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@each_rival
def test_the_loss_is_the_mean_over_images(rival: type[RivalLoss]) -> None:
    loss = make(rival)
    features, logits, labels = inputs(batch=4)
    alone = [terms_of(loss, [f[i : i + 1] for f in features], logits[i : i + 1], labels[i : i + 1]) for i in range(4)]
    together = terms_of(loss, features, logits, labels)
    for name, term in together.items():
        assert term.shape == ()
        torch.testing.assert_close(term, torch.stack([one[name] for one in alone]).mean())


@each_rival
def test_the_memory_format_does_not_matter(rival: type[RivalLoss]) -> None:
    loss = make(rival)
    features, logits, labels = inputs()
    channels_last = [feature.to(memory_format=torch.channels_last) for feature in features]
    expected = terms_of(loss, features, logits, labels)
    torch.testing.assert_close(terms_of(loss, channels_last, logits, labels), expected)


@each_rival
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_reduced_in_float32(rival: type[RivalLoss], dtype: torch.dtype) -> None:
    loss = make(rival)
    features, logits, labels = inputs(dtype=dtype)
    expected = terms_of(loss, [feature.float() for feature in features], logits.float(), labels)
    with torch.autocast("cpu", torch.bfloat16):
        actual = terms_of(loss, features, logits, labels)
    assert all(term.dtype == torch.float32 for term in actual.values())
    torch.testing.assert_close(actual, expected, rtol=0.03, atol=1e-3)


@each_rival
def test_large_and_dead_maps_give_finite_gradients(rival: type[RivalLoss]) -> None:
    for scale in (0.0, 1e4):
        loss = make(rival)
        features, logits, labels = inputs()
        features = [(scale * feature).requires_grad_() for feature in features]
        terms_of(loss, features, scale * logits, labels)[loss.name].backward()
        tensors = [*features, *loss.parameters()]
        assert all(tensor.grad.isfinite().all() for tensor in tensors if tensor.grad is not None)


@each_rival
def test_construction_leaves_the_random_state(rival: type[RivalLoss]) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    rival(SHAPES, CLASSES)
    assert torch.equal(torch.get_rng_state(), before)


@each_rival
@pytest.mark.parametrize(
    ("shapes", "classes", "expected"),
    [
        ([(4, 2, 2)], 3, "{} needs at least 2 stages; got 1"),
        ([(4, 2, 2), (4, 2, 2)], 0, "{} needs a classifier; got num_classes=0"),
        ([(4, 2, 2), (4, 0, 1)], 3, r"stage 1 is \(4, 0, 1\)"),
    ],
)
def test_invalid_shapes_and_classes_are_refused(
    rival: type[RivalLoss], shapes: Any, classes: int, expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected.format(rival.name.upper())):
        rival(shapes, classes)


@pytest.mark.parametrize("name", ["sad", "at"])
def test_a_model_without_spatial_targets_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{name.upper()} has no signal: .* use larger images[^\n]*$"):
        RIVALS[name]([(4, 2, 2), (4, 1, 1)], CLASSES)


def test_only_at_requires_positions_in_the_deepest_map() -> None:
    shapes = [(4, 4, 4), (4, 2, 2), (4, 1, 1)]
    assert RIVALS["sad"](shapes, CLASSES).pairs == [(0, 1)]
    with pytest.raises(ConfigError, match="AT has no signal"):
        RIVALS["at"](shapes, CLASSES)


def test_lambda_defaults_to_that_of_the_source_and_follows_its_schedule() -> None:
    assert RivalConfig().lambda_at(0.5, default=7.0) == 7.0
    assert RivalConfig(weight=0.0).lambda_at(0.5, default=7.0) == 0.0
    config = RivalConfig(weight=2.0, schedule="cosine", warmup=0.5)
    assert [config.lambda_at(t, default=7.0) for t in (0, 0.25, 0.5, 0.75, 1)] == pytest.approx([0, 1, 2, 1, 0])


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ({"weight": -1.0}, "`rival.weight` is -1.0"),
        ({"weight": math.nan}, "`rival.weight` is nan"),
        ({"schedule": "linear"}, "`rival.schedule` is 'linear'; expected 'constant', 'warmup' or 'cosine'"),
        ({"warmup": 2.0}, "`rival.warmup` is 2.0"),
    ],
)
def test_a_setting_out_of_range_is_named(choices: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        RivalConfig(**choices)


def test_heads_without_width_are_refused() -> None:
    with pytest.raises(ConfigError, match="width of a head is 0; expected at least 1 channel"):
        DSNLoss(SHAPES, CLASSES, hidden=0)
