"""Heads of convolutions: sizes, widths, and independence between images."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ssia_zoo.errors import ConfigError
from ssia_zoo.loss import BYOTLoss, DKSLoss
from ssia_zoo.loss.convolutions import PreActivationBlock, ResidualStages, bottleneck

SHAPES = [(6, 12, 8), (10, 6, 4), (14, 3, 2)]


def test_a_bottleneck_ends_with_the_size_of_the_deepest_map() -> None:
    stack = bottleneck(SHAPES[0], SHAPES[-1], middle=5)
    assert stack(torch.randn(2, *SHAPES[0])).shape == (2, *SHAPES[-1])
    convolutions = [module for module in stack if isinstance(module, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.kernel_size, c.stride) for c in convolutions] == [
        (6, 5, (1, 1), (1, 1)),
        (5, 5, (4, 4), (4, 4)),
        (5, 14, (1, 1), (1, 1)),
    ]


@pytest.mark.parametrize("stage", [0, 1])
def test_residual_stages_repeat_the_stages_above(stage: int) -> None:
    stages = ResidualStages(SHAPES[stage:])
    assert stages(torch.randn(2, *SHAPES[stage])).shape == (2, *SHAPES[-1])
    assert sum(isinstance(module, PreActivationBlock) for module in stages) == 2 - stage


def test_a_block_of_equal_shapes_adds_its_input() -> None:
    block = PreActivationBlock((4, 3, 3), (4, 3, 3))
    assert block.shortcut is None
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 4, 3, 3)
    assert torch.equal(block(x), x)


def test_maps_of_one_size_as_a_vits_are_not_reduced() -> None:
    same = [(4, 5, 5)] * 3
    assert bottleneck(same[0], same[-1], 3)(torch.randn(1, *same[0])).shape == (1, 4, 5, 5)
    assert ResidualStages(same)(torch.randn(1, *same[0])).shape == (1, 4, 5, 5)


@pytest.mark.parametrize("loss", [BYOTLoss, DKSLoss])
def test_heads_are_as_many_as_lower_stages_and_predict_the_classes(loss: type[BYOTLoss | DKSLoss]) -> None:
    built = loss(SHAPES, 3, heads="convolutional")
    predictions, embeddings = built.classifiers([torch.randn(2, *shape) for shape in SHAPES])
    assert [z.shape for z in predictions] == [(2, 3)] * 2
    assert [x.shape for x in embeddings] == [(2, 14)] * 2


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="width of a head is 0; expected at least 1 channel"):
        BYOTLoss(SHAPES, 3, hidden=0, heads="convolutional")
    with pytest.raises(ConfigError, match="hidden is 8; convolutional heads have the network's own widths"):
        DKSLoss(SHAPES, 3, hidden=8, heads="convolutional")
