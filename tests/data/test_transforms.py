"""The effect of each setting of resizing and augmentation on an image whose pixels encode their position."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import torch
from torch import Tensor
from torchvision import transforms

from ssia_zoo.data import (
    DataConfig,
    eval_transform,
    train_transform,
)
from ssia_zoo.data.config import Size
from ssia_zoo.data.tensors import TensorPixels
from ssia_zoo.data.transforms import ReflectCrop
from ssia_zoo.errors import ConfigError
from tests.helpers.data_folders import (
    MEAN,
    STD,
    encoded,
    pictures,
)

SIDE = 64
STEP = 4  # of a pixel's value from one row or column to the next
AS_IT_IS: dict[str, Any] = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "hflip": 0.0, "interpolation": "nearest"}
RAW = ((0.0,) * 3, (1.0,) * 3)  # mean and std


PATH = {"pixels": "tensor"}


@pytest.fixture(autouse=True, params=["tensor", "pil"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test by both paths."""
    monkeypatch.setitem(PATH, "pixels", request.param)


def places() -> PIL.Image.Image:
    """Return an image whose red channel is the column of a pixel, and green its row."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return PIL.Image.fromarray(np.stack([STEP * columns, STEP * rows, 0 * rows], axis=2).astype(np.uint8))


def config_of(settings: dict[str, Any], size: Size) -> DataConfig:
    return DataConfig("digits", image_size=size, **{**AS_IT_IS, **settings})


def augmented(image: PIL.Image.Image | None = None, size: Size = SIDE, seed: int = 0, **settings: Any) -> Tensor:
    """Return an augmented image, with pixels from 0 to 255."""
    config = config_of(settings, size)
    if PATH["pixels"] == "tensor":
        pixels = TensorPixels(config, *RAW)
        stored = {"bytes": encoded(image or places()), "path": None}
        return pixels.augment(pixels.decode(stored, 10**9, seed)).permute(2, 0, 1).float()
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return 255 * train_transform(config, *RAW)(image or places())


def evaluated(image: PIL.Image.Image, size: Size, **settings: Any) -> Tensor:
    return 255 * eval_transform(config_of(settings, size), *RAW)(image)


def shown(pixels: Tensor) -> tuple[int, int]:
    """Return the width and height of the part of `places` in a crop."""
    columns, rows = ((channel.max() - channel.min()) / STEP + 1 for channel in pixels[:2])
    return round(float(columns)), round(float(rows))


def test_without_augmentation_an_image_is_unchanged() -> None:
    expected = torch.from_numpy(np.array(places())).permute(2, 0, 1).float()
    torch.testing.assert_close(augmented(), expected)


@pytest.mark.covers("hflip", "vflip")
@pytest.mark.parametrize(("setting", "axis"), [("hflip", 2), ("vflip", 1)])
def test_flips_have_the_given_probability(setting: str, axis: int) -> None:
    flipped = augmented().flip(axis)
    for seed in range(8):
        torch.testing.assert_close(augmented(seed=seed, **{setting: 1.0}), flipped)
        torch.testing.assert_close(augmented(seed=seed, **{setting: 0.0}), augmented())
    sometimes = sum(torch.equal(augmented(seed=seed, **{setting: 0.5}), flipped) for seed in range(20))
    assert 3 < sometimes < 17


@pytest.mark.covers("scale", "ratio")
@pytest.mark.parametrize(
    ("scale", "ratio", "part"), [(0.25, 1.0, (32, 32)), (0.0625, 1.0, (16, 16)), (0.25, 4.0, (64, 16))]
)
def test_the_crop_has_the_given_area_and_aspect_ratio(scale: float, ratio: float, part: tuple[int, int]) -> None:
    crops = [augmented(size=64, seed=seed, scale=(scale, scale), ratio=(ratio, ratio)) for seed in range(6)]
    assert {shown(crop) for crop in crops} == {part}
    assert len({tuple(crop.flatten().tolist()) for crop in crops}) > 1, "at a random place"


@pytest.mark.covers("color_jitter")
def test_colour_jitter_changes_the_brightness_by_up_to_its_strength() -> None:
    grey = PIL.Image.new("RGB", (8, 8), (100, 100, 100))  # contrast and saturation leave it as it is
    for strength in (0.2, 0.5):
        levels = [float(augmented(grey, 8, seed, color_jitter=strength).mean()) / 100 for seed in range(30)]
        assert min(levels) >= 1 - strength - 0.01
        assert max(levels) <= 1 + strength + 0.01
        assert max(levels) - min(levels) > strength


@pytest.mark.covers("auto_augment")
@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5-inc1", "augmix-m3-w3", "original"])
def test_an_augmentation_policy_changes_images_at_random(policy: str) -> None:
    (image,) = pictures(1, SIDE)
    plain = augmented(image)
    views = [augmented(image, seed=seed, auto_augment=policy) for seed in range(8)]
    assert sum(not torch.equal(view, plain) for view in views) > 4
    assert len({tuple(view.flatten().tolist()) for view in views}) > 4


@pytest.mark.covers("interpolation")
@pytest.mark.parametrize("use", ["train", "train with --crop-padding", "evaluation"])
def test_images_are_resized_by_the_given_interpolation(use: str) -> None:
    image = pictures(1, 16)[0].convert("L").point(lambda level: 255 * (level > 127)).convert("RGB")  # black or white

    def levels(interpolation: str) -> int:
        if use == "evaluation":
            return len(evaluated(image, 24, interpolation=interpolation).round().unique())
        padding = {"crop_padding": 2} if "padding" in use else {}
        return len(augmented(image, 24, interpolation=interpolation, **padding).round().unique())

    assert levels("nearest") == 2, "no new colours"
    assert levels("box") == 2
    assert 2 < levels("bilinear") < levels("lanczos")


@pytest.mark.covers("crop_pct")
def test_evaluation_keeps_a_centre_of_the_given_size() -> None:
    assert shown(evaluated(places(), 32, crop_pct=1.0))[0] > 60
    centre = evaluated(places(), 32, crop_pct=0.5)
    torch.testing.assert_close(centre, augmented()[:, 16:48, 16:48])


@pytest.mark.covers("image_size")
def test_images_get_the_given_size() -> None:
    for size in (24, 40):
        assert augmented(size=size).shape == evaluated(places(), size).shape == (3, size, size)


@pytest.mark.covers("image_size")
@pytest.mark.parametrize(("height", "width"), [(16, 32), (32, 16)])
def test_an_input_that_is_not_square_keeps_the_shapes_in_the_image(height: int, width: int) -> None:
    size = (height, width)
    part = (SIDE * width // max(size), SIDE * height // max(size))  # the largest one of this aspect ratio
    assert evaluated(places(), size).shape == augmented(size=size).shape == (3, height, width)
    assert tuple(round(side / 4) for side in shown(evaluated(places(), size))) == tuple(side // 4 for side in part)
    area = part[0] * part[1] / SIDE**2
    crop = augmented(size=size, scale=(area, area))
    assert tuple(round(side / 4) for side in shown(crop)) == tuple(side // 4 for side in part)
    padded = augmented(size=size, crop_padding=2)
    assert padded.shape == (3, height, width)


def test_an_unknown_augmentation_policy_is_refused() -> None:
    with pytest.raises(ConfigError, match="`auto_augment` is 'bogus'"):
        train_transform(DataConfig("digits", image_size=8, auto_augment="bogus"), MEAN, STD)
    with pytest.raises(ConfigError, match="`image_size` is not set"):
        eval_transform(DataConfig("digits"), MEAN, STD)


@pytest.mark.parametrize(("size", "crop"), [((8, 8), 8), ((11, 8), 8), ((12, 9), (8, 12))])
def test_the_reflected_crop_is_that_of_torchvision(size: tuple[int, int], crop: Size) -> None:
    image = pictures(1, 16)[0].resize(size)
    theirs = transforms.RandomCrop(crop, padding=3, padding_mode="reflect")
    for seed in range(5):
        torch.manual_seed(seed)
        expected = np.asarray(theirs(image))
        torch.manual_seed(seed)
        assert np.array_equal(np.asarray(ReflectCrop(crop, 3)(image)), expected)


@pytest.mark.covers("crop_padding")
def test_crop_padding_resizes_only_what_has_another_size() -> None:
    config = DataConfig("digits", image_size=8, crop_padding=2, hflip=0.0)
    transform = train_transform(config, MEAN, STD)
    small, large = pictures(1, 8)[0], pictures(1, 20)[0]
    assert transform(large).shape == (3, 8, 8)
    values = set(np.asarray(small).reshape(-1, 3).astype(np.float32).ravel())
    restored = ((transform(small) * 0.25 + 0.5) * 255).round()
    assert set(restored.ravel().tolist()) <= values


@pytest.mark.covers("random_erase", "random_erase_mode", "random_erase_count")
def test_erasing_follows_mode_and_count() -> None:
    def erased(mode: str, count: int = 1) -> torch.Tensor:
        config = DataConfig(
            **{"dataset": "digits", "image_size": 64, "scale": (1.0, 1.0), "ratio": (1.0, 1.0), "hflip": 0.0},
            **{"random_erase": 1.0, "random_erase_mode": mode, "random_erase_count": count},
        )
        torch.manual_seed(0)
        random.seed(0)
        image = train_transform(config, (0.5,) * 3, (0.5,) * 3)(PIL.Image.new("RGB", (64, 64), "white"))
        return image.flatten(1)[:, image.flatten(1).amin(0) != 1]  # white is 1

    assert not erased("const").any(), "the mean is 0"
    assert len(erased("rand").unique(dim=1)[0]) == 1, "one colour"
    assert len(erased("pixel").unique(dim=1)[0]) > 100, "a colour each"
    assert len(erased("rand", count=8).unique(dim=1)[0]) > 1, "several rectangles"
