"""The SSIA loss: its gradients and values, and what they do not depend on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssia_zoo.errors import ConfigError
from ssia_zoo.loss.ssia import SSIAConfig, SSIALoss, StageShape, spatial_attention

SIGNALS: dict[str, dict[str, Any]] = {
    "semantic": {},
    "semantic-attention": {"pooling": "attention"},
    "semantic-positions": {"pooling": "none"},
    "channel": {"semantic": 0.0, "channel": 1.0},
    "spatial": {"semantic": 0.0, "spatial": 1.0},
    "all": {"channel": 0.5, "spatial": 2.0, "pooling": "attention"},
}
# Non-square maps; a stage of the same size as the one below it; in "to 1x1" a deepest stage without positions.
SHAPES: dict[str, list[StageShape]] = {
    "K=2": [(4, 6, 5), (5, 3, 2)],
    "K=3": [(4, 8, 6), (6, 4, 3), (5, 2, 3)],
    "K=5": [(2, 9, 8), (3, 9, 8), (4, 5, 4), (6, 3, 2), (5, 2, 2)],
    "to 1x1": [(4, 4, 4), (6, 2, 2), (8, 1, 1)],
}
CLASSES = 7

each_signal = pytest.mark.parametrize("signals", SIGNALS.values(), ids=SIGNALS.keys())
each_choice_of_pairs = pytest.mark.parametrize("pairs", ["deepest", "adjacent", "upper"])
each_network = pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES.keys())


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Use one thread, which is faster for small tensors."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_loss(shapes: list[StageShape], **choices: Any) -> SSIALoss:
    torch.manual_seed(0)
    return SSIALoss(shapes, CLASSES, SSIAConfig(**{"hidden": 6, "labels": 0, **choices}))


def make_inputs(shapes: list[StageShape], batch: int = 4, seed: int = 1) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = [torch.randn(batch, *shape, generator=generator) for shape in shapes]
    return features, torch.randn(batch, CLASSES, generator=generator)


def gradients(loss: SSIALoss, features: list[Tensor], logits: Tensor) -> list[Tensor | None]:
    """Return the gradients of the features, then the logits; None where the loss does not depend on them."""
    inputs = [tensor.detach().clone().requires_grad_() for tensor in (*features, logits)]
    return list(torch.autograd.grad(loss(inputs[:-1], inputs[-1])["ssia"], inputs, allow_unused=True))


def skip_unless_possible(shapes: list[StageShape], signals: dict[str, Any], pairs: str) -> None:
    attends = signals is SIGNALS["spatial"] or signals.get("pooling") == "attention"
    if attends and pairs != "adjacent" and shapes[-1][1:] == (1, 1):
        pytest.skip("this network's deepest stage has no positions")


@each_signal
@each_choice_of_pairs
@each_network
def test_gradients_reach_every_lower_stage_and_head_but_not_the_top(
    shapes: list[StageShape], pairs: str, signals: dict[str, Any]
) -> None:
    skip_unless_possible(shapes, signals, pairs)
    loss = make_loss(shapes, pairs=pairs, **signals)
    *lower, top, logits = gradients(loss, *make_inputs(shapes))
    assert top is None
    assert logits is None
    supervised = dict(loss.pairs)
    assert pairs == "upper" or len(supervised) == len(lower)
    for stage, gradient in enumerate(lower):
        if stage not in supervised:
            assert gradient is None
            continue
        high = supervised[stage]
        if signals is SIGNALS["spatial"] and shapes[high][1:] == (1, 1):
            assert gradient is None
            continue
        assert gradient is not None
        assert gradient.isfinite().all()
        assert (gradient.flatten(1).abs().sum(dim=1) > 0).all(), f"an image of stage {stage} got no gradient"
    loss(*make_inputs(shapes))["ssia"].backward()
    for name, parameter in loss.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@each_signal
@each_choice_of_pairs
def test_a_stage_gets_no_gradient_as_supervisor(pairs: str, signals: dict[str, Any]) -> None:
    """If it did, the gradient would depend on the maps below, which it supervises."""
    shapes = SHAPES["K=3"]
    loss = make_loss(shapes, pairs=pairs, **signals)
    (features, logits), (others, _) = make_inputs(shapes), make_inputs(shapes, seed=2)
    for stage in range(len(shapes)):
        expected = gradients(loss, features, logits)[stage]
        actual = gradients(loss, [*others[:stage], *features[stage:]], logits)[stage]
        assert (expected is None and actual is None) or torch.equal(expected, actual)


@each_signal
@each_choice_of_pairs
def test_the_order_of_images_and_the_memory_format_do_not_matter(pairs: str, signals: dict[str, Any]) -> None:
    loss = make_loss(SHAPES["K=3"], pairs=pairs, **signals)
    features, logits = make_inputs(SHAPES["K=3"])
    order = torch.tensor([2, 0, 3, 1])
    expected = loss(features, logits)
    permuted = loss([feature[order] for feature in features], logits[order])
    torch.testing.assert_close(permuted, expected)
    channels_last = [feature.to(memory_format=torch.channels_last) for feature in features]
    torch.testing.assert_close(loss(channels_last, logits), expected)


@each_signal
@each_choice_of_pairs
@pytest.mark.parametrize("parts", [2, 4])
def test_accumulating_over_parts_of_a_batch_gives_its_gradient(pairs: str, signals: dict[str, Any], parts: int) -> None:
    loss = make_loss(SHAPES["K=3"], pairs=pairs, **signals)
    features, logits = make_inputs(SHAPES["K=3"], batch=4)
    whole = torch.autograd.grad(loss(features, logits)["ssia"], list(loss.parameters()))
    for images in torch.arange(4).chunk(parts):
        (loss([feature[images] for feature in features], logits[images])["ssia"] / parts).backward()
    torch.testing.assert_close([p.grad for p in loss.parameters()], list(whole))


@each_signal
@each_choice_of_pairs
@each_network
def test_the_loss_of_a_batch_is_the_mean_of_its_images_losses(
    shapes: list[StageShape], pairs: str, signals: dict[str, Any]
) -> None:
    skip_unless_possible(shapes, signals, pairs)
    loss = make_loss(shapes, pairs=pairs, **signals)
    features, logits = make_inputs(shapes, batch=3)
    alone = [loss([f[i : i + 1] for f in features], logits[i : i + 1])["ssia"] for i in range(3)]
    torch.testing.assert_close(torch.stack(alone).mean(), loss(features, logits)["ssia"])


@each_signal
@each_choice_of_pairs
def test_gradients_are_those_of_the_loss(pairs: str, signals: dict[str, Any]) -> None:
    shapes: list[StageShape] = [(2, 3, 2), (2, 3, 2), (3, 2, 2)]
    loss = make_loss(shapes, pairs=pairs, **{**signals, "hidden": 2}).double()
    features, logits = make_inputs(shapes, batch=2)
    names = [name for name, _ in loss.named_parameters()]
    # With adjacent pairs, a middle stage is also a target, which has no gradient: keep it fixed.
    free = 1 if pairs == "adjacent" else 2
    maps, logits = [feature.double() for feature in features], logits.double()

    def value(*inputs: Tensor) -> Tensor:
        lower, parameters = inputs[:free], dict(zip(names, inputs[free:], strict=True))
        terms: dict[str, Tensor] = torch.func.functional_call(loss, parameters, ([*lower, *maps[free:]], logits))
        return terms["ssia"]

    inputs = [tensor.detach().clone().requires_grad_() for tensor in (*maps[:free], *loss.parameters())]
    assert torch.autograd.gradcheck(value, inputs, fast_mode=True)


@each_signal
@each_choice_of_pairs
def test_autocast_does_not_change_the_loss(pairs: str, signals: dict[str, Any]) -> None:
    loss = make_loss(SHAPES["K=3"], pairs=pairs, **signals)
    features, logits = make_inputs(SHAPES["K=3"])
    expected = loss(features, logits)
    with torch.autocast("cpu", torch.bfloat16):
        same = loss(features, logits)
        low = loss([feature.bfloat16() for feature in features], logits.bfloat16())
    torch.testing.assert_close(same, expected, rtol=0, atol=0)
    assert all(term.dtype == torch.float32 for term in low.values())
    torch.testing.assert_close(low, expected, rtol=0.02, atol=0.01)


@each_signal
@each_choice_of_pairs
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_maps_give_a_finite_loss(pairs: str, signals: dict[str, Any], dtype: torch.dtype) -> None:
    """The squares of these values exceed 65504, the maximum of float16."""
    loss = make_loss(SHAPES["K=3"], pairs=pairs, **signals)
    features, logits = make_inputs(SHAPES["K=3"])
    large = [(300 + 700 * feature.abs().clamp(max=1)).to(dtype).requires_grad_() for feature in features]
    terms = loss(large, (logits * 300).to(dtype))
    terms["ssia"].backward()
    assert all(term.dtype == torch.float32 and term.isfinite() for term in terms.values()), terms
    assert all(feature.grad.isfinite().all() for feature in large if feature.grad is not None)


def test_construction_leaves_the_random_state_and_the_seed_decides_the_heads() -> None:
    def build(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        loss = SSIALoss(SHAPES["K=3"], CLASSES, SSIAConfig(labels=0, channel=1, spatial=1))
        assert torch.equal(torch.get_rng_state(), before)
        return loss.state_dict()

    first, other = build(3), build(4)
    assert all(torch.equal(value, first[name]) for name, value in build(3).items())
    assert not torch.equal(first["semantic.0.project.weight"], other["semantic.0.project.weight"])
    assert not torch.equal(first["channel.0.predict.weight"][0], first["semantic.0.predict.weight"][0])


def predict_always(head: Any, prediction: list[float]) -> None:
    with torch.no_grad():
        head.predict.weight.zero_()
        head.predict.bias.copy_(torch.tensor(prediction))


@pytest.mark.parametrize("pooling", ["average", "attention"])
def test_a_head_that_predicts_the_classes_exactly_has_no_loss(pooling: str) -> None:
    loss = make_loss(SHAPES["K=2"], pooling=pooling)
    row = [1.5, -2.0, 0.0, 0.3, 4.0, -1.0, 2.0]
    predict_always(loss.semantic[0], row)
    terms = loss(make_inputs(SHAPES["K=2"])[0], torch.tensor([row] * 4))
    assert abs(terms["semantic"].item()) < 1e-6
    assert torch.equal(terms["ssia"], terms["semantic"])


@pytest.mark.covers("ssia.semantic", "ssia.temperature")
def test_the_semantic_loss_is_t_squared_times_the_mean_divergence() -> None:
    loss = SSIALoss(SHAPES["K=2"], 2, SSIAConfig(temperature=2.0, hidden=4, semantic=0.5, labels=0))
    predict_always(loss.semantic[0], [0.0, 2 * math.log(3)])  # at T=2: the distribution 1/4, 3/4
    logits = torch.tensor([[0.0, 0.0], [2 * math.log(9), 0.0]])  # at T=2: 1/2, 1/2 and 9/10, 1/10
    first = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    second = 0.9 * math.log(0.9 / 0.25) + 0.1 * math.log(0.1 / 0.75)
    terms = loss(make_inputs(SHAPES["K=2"], batch=2)[0], logits)
    assert terms["semantic"].item() == pytest.approx(2.0**2 * (first + second) / 2, rel=1e-5)
    assert terms["ssia"].item() == pytest.approx(0.5 * terms["semantic"].item())


@pytest.mark.covers("ssia.labels")
def test_with_labels_the_semantic_heads_also_learn_the_task_loss() -> None:
    loss = SSIALoss(SHAPES["K=3"], 2, SSIAConfig(hidden=4, labels=0.5, handover=False))
    assert loss.uses_labels
    predict_always(loss.semantic[0], [0.0, math.log(3)])
    predict_always(loss.semantic[1], [0.0, math.log(9)])
    features, _ = make_inputs(SHAPES["K=3"], batch=2)
    labels = torch.tensor([0, 1])
    terms = loss(features, torch.zeros(2, 2), lambda z: F.cross_entropy(z, labels))
    expected = -(math.log(1 / 4) + math.log(3 / 4) + math.log(1 / 10) + math.log(9 / 10)) / 4
    assert terms["labels"].item() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(terms["ssia"], terms["semantic"] + 0.5 * terms["labels"])
    with pytest.raises(ConfigError, match=r"`ssia\.labels` is above 0, .*label_loss"):
        loss(features, torch.zeros(2, 2))


@pytest.mark.covers("ssia.handover")
def test_handover_replaces_the_labels_by_the_signal_over_training() -> None:
    loss = SSIALoss(SHAPES["K=2"], 2, SSIAConfig(hidden=4, semantic=3.0, labels=2.0))
    features, logits = make_inputs(SHAPES["K=2"], batch=2)
    for progress, (semantic, labels) in {0.0: (0.0, 2.0), 0.25: (0.75, 1.5), 1.0: (3.0, 0.0)}.items():
        loss.set_progress(progress)
        terms = loss(features, logits[:, :2], lambda z: F.cross_entropy(z, torch.tensor([0, 1])))
        torch.testing.assert_close(terms["ssia"], semantic * terms["semantic"] + labels * terms["labels"])
    assert not any("progress" in name for name in loss.state_dict()), "progress is not part of the state"


def test_without_labels_the_label_loss_is_not_called() -> None:
    loss = make_loss(SHAPES["K=2"])
    assert not loss.uses_labels

    def must_not_be_called(logits: Tensor) -> Tensor:
        raise AssertionError("the loss used labels")

    assert "labels" not in loss(*make_inputs(SHAPES["K=2"]), must_not_be_called)


@pytest.mark.covers("ssia.semantic", "ssia.channel")
def test_the_channel_loss_is_the_mean_squared_error_to_the_supervisors_signal() -> None:
    loss = make_loss(SHAPES["K=3"], pairs="adjacent", semantic=0, channel=3)
    features, logits = make_inputs(SHAPES["K=3"])
    for head in loss.channel:
        predict_always(head, [0.5] * head.predict.out_features)
    expected = [((F.layer_norm(f.mean((2, 3)), f.shape[1:2], eps=1e-6) - 0.5) ** 2).mean() for f in features[1:]]
    terms = loss(features, logits)
    torch.testing.assert_close(terms["channel"], torch.stack(expected).mean(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(terms["ssia"], 3 * terms["channel"])


@pytest.mark.covers("ssia.spatial")
def test_the_spatial_loss_is_the_divergence_from_the_supervisors_attention() -> None:
    loss = make_loss(SHAPES["K=2"], semantic=0, spatial=1)
    with torch.no_grad():
        loss.spatial[0].predict.weight.zero_()  # predicts a uniform map
    features, logits = make_inputs(SHAPES["K=2"])
    attention = spatial_attention(features[1])
    expected = (attention * (attention * 6).log()).sum(dim=1).mean()
    torch.testing.assert_close(loss(features, logits)["spatial"], expected)


@pytest.mark.parametrize("signals", [SIGNALS["semantic"], SIGNALS["channel"]])
def test_heads_average_over_positions_after_their_first_layers(signals: dict[str, Any]) -> None:
    shapes: list[StageShape] = [(4, 4, 4), (8, 1, 1)]
    loss = make_loss(shapes, **signals)
    (low, high), logits = make_inputs(shapes)
    pixel = low.mean((2, 3), keepdim=True)
    even = loss([pixel.expand_as(low), high], logits)["ssia"]
    torch.testing.assert_close(even, loss([pixel, high], logits)["ssia"])  # an even map counts as one position
    assert (loss([low, high], logits)["ssia"] - even).abs() > 1e-3


@pytest.mark.covers("ssia.semantic", "ssia.channel", "ssia.spatial")
def test_terms_are_those_of_active_signals_and_their_sum_is_weighted() -> None:
    shapes = SHAPES["K=3"]
    terms = make_loss(shapes, semantic=0.5, channel=2.0, spatial=3.0)(*make_inputs(shapes))
    assert list(terms) == ["semantic", "channel", "spatial", "ssia"]
    torch.testing.assert_close(terms["ssia"], 0.5 * terms["semantic"] + 2 * terms["channel"] + 3 * terms["spatial"])


def test_a_pair_whose_target_is_one_position_skips_the_spatial_signal() -> None:
    shapes = SHAPES["to 1x1"]
    loss = make_loss(shapes, pairs="adjacent", spatial=1)
    assert (len(loss.semantic), len(loss.spatial)) == (2, 1)
    assert loss.pairs == [(0, 1), (1, 2)]
    deepest = make_loss(shapes, spatial=1)
    assert deepest(*make_inputs(shapes)).keys() == {"semantic", "ssia"}
    assert deepest.pairs == [(0, 2), (1, 2)]


@pytest.mark.covers("ssia.pairs")
def test_the_upper_pair_is_the_deepest_stage_and_the_one_below_it() -> None:
    loss = make_loss(SHAPES["K=5"], pairs="upper", channel=1, spatial=1)
    assert loss.pairs == [(3, 4)]
    assert (len(loss.semantic), len(loss.channel), len(loss.spatial)) == (1, 1, 1)


@pytest.mark.covers("ssia.hidden")
def test_every_head_has_the_configured_width() -> None:
    loss = make_loss(SHAPES["K=3"], hidden=11, channel=1, spatial=1)
    heads = [*loss.semantic, *loss.channel, *loss.spatial]
    assert {(head.project.out_features, head.predict.in_features) for head in heads} == {(11, 11)}


@pytest.mark.covers("ssia.pooling")
def test_without_pooling_each_position_predicts_separately() -> None:
    shapes: list[StageShape] = [(4, 2, 2), (8, 1, 1)]
    loss, pooled = make_loss(shapes, pooling="none"), make_loss(shapes)
    (low, high), logits = make_inputs(shapes)
    alone = [
        pooled([low[:, :, i : i + 1, j : j + 1], high], logits)["semantic"] for i, j in ((0, 0), (0, 1), (1, 0), (1, 1))
    ]
    torch.testing.assert_close(loss([low, high], logits)["semantic"], torch.stack(alone).mean())


weights = st.sampled_from([0.0, 0.3, 1.0])


@settings(max_examples=40, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 7), st.integers(1, 7)), min_size=2, max_size=5),
    batch=st.integers(1, 4),
    semantic=weights,
    channel=weights,
    spatial=weights,
    temperature=st.sampled_from([0.5, 1.0, 4.0]),
    pairs=st.sampled_from(["deepest", "adjacent", "upper"]),
    pooling=st.sampled_from(["average", "attention", "none"]),
    scale=st.sampled_from([0.0, 1e-4, 1.0, 1e3]),
    seed=st.integers(0, 99),
)
def test_the_loss_is_finite_and_not_negative(
    shapes: list[StageShape], batch: int, scale: float, seed: int, **choices: Any
) -> None:
    if choices["semantic"] == choices["channel"] == 0:
        choices["semantic"] = 1.0  # a spatial signal alone may be refused; see the test of that
    if choices["pooling"] == "attention":  # maps of one position are refused; see the test of that
        shapes = [(channels, height, width + 1) for channels, height, width in shapes]
    loss = make_loss(shapes, **choices)
    features, logits = make_inputs(shapes, batch, seed)
    features = [(feature * scale).requires_grad_() for feature in features]
    (terms := loss(features, logits * scale))["ssia"].backward()
    assert all(term.isfinite() and term >= -1e-5 for term in terms.values()), terms  # a divergence of 0 is rounded
    assert all(tensor.grad.isfinite().all() for tensor in (*features, *loss.parameters()) if tensor.grad is not None)


@pytest.mark.parametrize("channels", [[16], [16, 31], [32, 16], [16, 32, 64]])
def test_feature_maps_other_than_those_of_construction_are_refused(channels: list[int]) -> None:
    loss = SSIALoss([(16, 4, 4), (32, 2, 2)], num_classes=10)
    with pytest.raises(ConfigError, match=r"expected \[16, 32\], lowest first, and 10"):
        loss([torch.randn(2, count, 4, 4) for count in channels], torch.randn(2, 10))


def test_logits_of_another_number_of_classes_are_refused() -> None:
    loss = SSIALoss([(16, 4, 4), (32, 2, 2)], num_classes=10)
    with pytest.raises(ConfigError, match="logits of 11 classes"):
        loss([torch.randn(2, 16, 4, 4), torch.randn(2, 32, 2, 2)], torch.randn(2, 11))
