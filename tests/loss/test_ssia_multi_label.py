"""The SSIA loss for several labels an image: the semantic signal is the sigmoid of each class."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, kl_divergence

from ssia_zoo.errors import ConfigError
from ssia_zoo.loss.ssia import SSIAConfig, SSIALoss

SHAPES = [(4, 8, 6), (6, 4, 3), (5, 2, 3)]
CLASSES = 7
LABEL_FREE = {"hidden": 6, "labels": 0.0, "handover": False}


def inputs() -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(1)
    features = [torch.randn(4, *shape, generator=generator) for shape in SHAPES]
    return features, 3 * torch.randn(4, CLASSES, generator=generator)


def make_loss(**choices: object) -> SSIALoss:
    torch.manual_seed(0)
    return SSIALoss(SHAPES, CLASSES, SSIAConfig(**{**LABEL_FREE, **choices}), multi_label=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("pooling", ["average", "attention", "none"])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_loss_is_the_mean_divergence_of_each_class(pooling: str, temperature: float) -> None:
    loss, (features, logits) = make_loss(pooling=pooling, temperature=temperature), inputs()
    expected = []
    for prediction in loss._predict_classes(features):
        target = logits if prediction.dim() == 2 else logits[:, None].expand_as(prediction)
        divergence = kl_divergence(Bernoulli(logits=target / temperature), Bernoulli(logits=prediction / temperature))
        expected.append(divergence.mean())
    measured = loss(features, logits)["semantic"]
    torch.testing.assert_close(measured, temperature**2 * torch.stack(expected).mean())
    assert measured > 0


def test_heads_that_repeat_the_logits_have_no_loss() -> None:
    loss, (features, logits) = make_loss(), inputs()
    for head in loss.semantic:
        assert isinstance(head.predict, nn.Linear)
        nn.init.zeros_(head.predict.weight)
        with torch.no_grad():
            head.predict.bias.copy_(logits[0])
    same = [feature[:1] for feature in features]
    torch.testing.assert_close(loss(same, logits[:1])["semantic"], torch.zeros(()), atol=1e-6, rtol=0)


def test_gradients_reach_the_lower_stages_and_not_the_supervising_logits() -> None:
    loss, (features, logits) = make_loss(), inputs()
    tensors = [tensor.requires_grad_() for tensor in (*features, logits)]
    found = torch.autograd.grad(loss(tensors[:-1], tensors[-1])["ssia"], tensors, allow_unused=True)
    assert [gradient is not None for gradient in found] == [True, True, False, False]


def test_classes_do_not_compete() -> None:
    loss, (features, logits) = make_loss(), inputs()
    changed = logits.clone()
    changed[:, 0] += 5
    biases = [head.predict.bias for head in loss.semantic]
    before, after = (torch.autograd.grad(loss(features, z)["semantic"], biases) for z in (logits, changed))
    for one, other in zip(before, after, strict=True):
        assert (one[1:] == other[1:]).all(), "of the other classes"
        assert one[0] != other[0]


@pytest.mark.parametrize("supervisor", ["memory", "average"])
def test_distributions_of_another_supervisor_are_refused(supervisor: str) -> None:
    with pytest.raises(ConfigError, match="but images have several labels; set it to now"):
        make_loss(supervisor=supervisor)
