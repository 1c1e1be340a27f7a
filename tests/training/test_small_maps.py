"""Convolutions as matrix products give what convolutions give."""

from __future__ import annotations

from copy import deepcopy

import pytest
import timm
import torch
from torch import nn

from ssia_zoo.training.small_maps import multiply_small_maps


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 2), (3, 3), (8, 5)])
@pytest.mark.parametrize(
    "form",
    [
        {"kernel_size": 1},
        {"kernel_size": 1, "stride": 2},
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "padding": 1, "stride": 2},
        {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
        {"kernel_size": 3, "padding": 2, "dilation": 2},
        {"kernel_size": 3, "padding": 1, "groups": 2},
        {"kernel_size": 5, "padding": 2},
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_gradients_are_those_of_the_convolution(size, form, bias):
    torch.manual_seed(0)
    plain = nn.Conv2d(4, 6, bias=bias, **form).double()
    changed = deepcopy(plain)
    multiply_small_maps(changed)
    x = torch.randn(3, 4, *size, dtype=torch.double)
    results = []
    for conv in (plain, changed):
        image = x.clone().requires_grad_()
        out = conv(image)
        gradients = torch.autograd.grad(out.square().sum(), [image, *conv.parameters()])
        results.append((out.detach(), *gradients))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


def test_a_copy_of_a_changed_model_uses_its_own_weights():
    model = timm.create_model("resnet18", num_classes=3)
    keys = list(model.state_dict())
    multiply_small_maps(model)
    assert list(model.state_dict()) == keys
    copy = deepcopy(model)
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.zero_()
    x = torch.randn(2, 3, 32, 32)
    assert copy(x).eq(0).all()
    assert model(x).ne(0).any()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_network_learns_as_before(memory_format):
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=3).to(memory_format=memory_format).double()
    changed = deepcopy(model)
    multiply_small_maps(changed)
    x = torch.randn(4, 3, 32, 32, dtype=torch.double).contiguous(memory_format=memory_format)
    for network in (model, changed):
        network(x).square().sum().backward()
    for (name, expected), found in zip(model.named_parameters(), changed.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, msg=lambda text, name=name: f"{name}: {text}")
