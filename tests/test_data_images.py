"""Decoding every kind of image to RGB, and the crop that is usual for CIFAR."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from data_folders import MEAN, STD, pictures
from torchvision import transforms

from ssia_zoo._images import ReflectCrop, decode_rgb
from ssia_zoo.data import DataConfig, train_transform


def stored(image: PIL.Image.Image, tmp_path: Path, suffix: str, **options: Any) -> np.ndarray[Any, Any]:
    path = tmp_path / f"image{suffix}"
    image.save(path, **options)
    decoded = decode_rgb({"bytes": path.read_bytes(), "path": None})
    assert decoded.mode == "RGB"
    return np.asarray(decoded).astype(int)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_mode_is_read_as_pillow_converts_it_to_rgb(tmp_path: Path, mode: str) -> None:
    image = pictures(1)[0].convert(mode)
    read = stored(image, tmp_path, ".tiff" if mode == "CMYK" else ".png")
    assert np.array_equal(read, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    image = PIL.Image.fromarray(np.array([[0, 257, 32896, 65535]], dtype=np.uint16))
    assert image.mode.startswith("I;16")
    assert stored(image, tmp_path, suffix)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_thirty_two_bit_pixels_are_refused_for_they_have_no_range(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no fixed range"):
        stored(PIL.Image.fromarray(np.zeros((2, 2), dtype=np.float32)), tmp_path, ".tiff")


def test_a_photograph_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    image = PIL.Image.new("RGB", (16, 8))
    image.paste((255, 255, 255), (0, 0, 8, 8))  # the left half is white
    exif = PIL.Image.Exif()
    exif[PIL.Image.ExifTags.Base.Orientation] = 6  # to be turned clockwise
    read = stored(image, tmp_path, ".jpg", exif=exif)
    assert read.shape == (16, 8, 3)
    assert read[:6].min() > 200
    assert read[10:].max() < 50


@pytest.mark.parametrize("size", [(8, 8), (11, 8)])
def test_the_reflected_crop_is_that_of_torchvision(size: tuple[int, int]) -> None:
    image = pictures(1, 16)[0].resize(size)
    theirs = transforms.RandomCrop(8, padding=3, padding_mode="reflect")
    for seed in range(5):
        torch.manual_seed(seed)
        expected = np.asarray(theirs(image))
        torch.manual_seed(seed)
        assert np.array_equal(np.asarray(ReflectCrop(8, 3)(image)), expected)


def test_crop_padding_resizes_only_what_has_another_size() -> None:
    config = DataConfig("digits", image_size=8, crop_padding=2, hflip=0.0)
    transform = train_transform(config, MEAN, STD)
    small, large = pictures(1, 8)[0], pictures(1, 20)[0]
    assert transform(large).shape == (3, 8, 8)
    values = set(np.asarray(small).reshape(-1, 3).astype(np.float32).ravel())
    restored = ((transform(small) * 0.25 + 0.5) * 255).round()
    assert set(restored.ravel().tolist()) <= values
