"""Parameters, multiply-accumulates and activations agree with timm's published ones."""

from __future__ import annotations

import pytest
import torch

from ssia_zoo.models.stats import model_stats

IMAGENET = (1000, (3, 224, 224))


@pytest.mark.parametrize(
    ("architecture", "parameters", "gmacs", "activations"),
    [  # as timm's model cards state them
        ("resnet18", 11.7, 1.8, 2.5),
        ("resnet50", 25.6, 4.1, 11.1),
        ("mobilenetv3_large_100", 5.5, 0.2, 4.4),
        ("vit_small_patch16_224", 22.1, 4.6, 11.9),
    ],
)
def test_stats_are_those_of_timms_cards(architecture: str, parameters: float, gmacs: float, activations: float) -> None:
    stats = model_stats(architecture, *IMAGENET)
    assert round(stats.parameters / 1e6, 1) == parameters
    assert round(stats.macs / 1e9, 1) == gmacs
    assert stats.activations / 1e6 == pytest.approx(activations, abs=0.06)


def test_stats_depend_on_classes_and_size() -> None:
    small, large = model_stats("test_resnet", 7, (3, 32, 32)), model_stats("test_resnet", 9, (3, 64, 64))
    assert large.parameters - small.parameters == 2 * 97
    assert large.macs > 3 * small.macs
    assert large.activations > 3 * small.activations
    assert large.rows()[-1] == "- Image size: 64 x 64"


def test_counting_keeps_the_random_state() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    model_stats.__wrapped__("test_resnet", 7, (3, 32, 32))
    assert torch.equal(torch.rand(1), expected)
