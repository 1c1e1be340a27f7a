"""The signals that the SSIA loss takes from a feature map."""

from __future__ import annotations

import pytest
import torch

from ssia_zoo.errors import ConfigError
from ssia_zoo.loss.ssia import SSIAConfig, SSIALoss, channel_signal, spatial_attention


def test_signals_of_large_half_precision_maps_are_those_of_float32() -> None:
    feature = torch.linspace(300, 1000, 2 * 3 * 4 * 5).reshape(2, 3, 4, 5).half()
    for signal in (spatial_attention, channel_signal):
        assert signal(feature).dtype == torch.float32
        torch.testing.assert_close(signal(feature), signal(feature.float()))


def test_spatial_attention_is_a_distribution_that_prefers_active_positions() -> None:
    feature = torch.randn(3, 4, 5, 2, generator=torch.Generator().manual_seed(0))
    attention = spatial_attention(feature)
    assert attention.shape == (3, 10)
    torch.testing.assert_close(attention.sum(dim=1), torch.ones(3))
    energy = feature.square().mean(dim=1).flatten(1)
    assert torch.equal(attention.argsort(dim=1), energy.argsort(dim=1))
    torch.testing.assert_close(spatial_attention(feature * 10), attention, rtol=1e-4, atol=1e-6)
    by_hand = spatial_attention(torch.tensor([[[[1.0, 3.0]], [[1.0, 1.0]]]]))  # energies 1, 5; standardised -1, 1
    torch.testing.assert_close(by_hand, torch.tensor([[-1.0, 1.0]]).softmax(1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, -2.5, 1000.0])
def test_spatial_attention_of_a_constant_map_is_uniform(value: float) -> None:
    torch.testing.assert_close(spatial_attention(torch.full((2, 3, 3, 5), value)), torch.full((2, 15), 1 / 15))


def test_channel_signal_is_standardized_per_image() -> None:
    feature = torch.randn(3, 8, 4, 5, generator=torch.Generator().manual_seed(0)) * 5 + 2
    signal = channel_signal(feature)
    torch.testing.assert_close(signal.mean(dim=1), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(signal.var(dim=1, unbiased=False), torch.ones(3), rtol=1e-4, atol=1e-4)


def test_pooling_by_attention_needs_a_stage_with_positions_and_is_the_average_where_there_is_one() -> None:
    shapes = [(4, 4, 4), (6, 2, 2), (8, 1, 1)]
    with pytest.raises(ConfigError, match=r"pooling` is attention, but the supervising stages have a single position"):
        SSIALoss(shapes, 7, SSIAConfig(pooling="attention"))
    features = [torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)) for shape in shapes]
    predictions = {}
    for pooling in ("attention", "average"):
        torch.manual_seed(0)
        loss = SSIALoss(shapes, 7, SSIAConfig(pairs="adjacent", pooling=pooling))  # type: ignore[arg-type]
        predictions[pooling] = loss._predict_classes(features)
    first, second = zip(*predictions.values(), strict=True)
    assert not torch.allclose(*first)
    assert torch.equal(*second)
