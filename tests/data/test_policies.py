"""The strongest augmentation of timm's policies works with every Pillow."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest

from ssia_zoo.data import DataConfig, train_transform
from ssia_zoo.data.policies import _operations


@pytest.mark.parametrize("policy", ["rand-m10-inc1", "v0", "augmix-m3-w3"])
@pytest.mark.parametrize("channels", [1, 3])
def test_zero_bits_give_black_and_others_what_timm_gives(policy: str, channels: int) -> None:
    config = DataConfig("digits", image_size=8, auto_augment=policy)
    compose = train_transform(config, [0.5] * channels, [0.5] * channels)
    posterize = [op.aug_fn for op in _operations(compose.transforms) if "posterize" in op.aug_fn.__name__]  # type: ignore[attr-defined]
    assert posterize
    pixels = np.arange(64 * channels, dtype=np.uint8).reshape(8, 8, channels)
    image = PIL.Image.fromarray(pixels.squeeze())
    for function in posterize:
        assert not np.asarray(function(image, 0)).any()
        assert np.asarray(function(image, 4)).max() == (64 * channels - 1) & 0xF0
        assert function(image, 8) is image
