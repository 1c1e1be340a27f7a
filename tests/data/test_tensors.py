"""The path of uint8 tensors shows the crops, flips and colours of the path of Pillow images."""

from __future__ import annotations

import io
import logging
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor

from ssia_zoo.data import DataConfig, load_image_data, train_loader, train_transform
from ssia_zoo.data.decode import decode_image
from ssia_zoo.data.preprocessing import ConvertMode
from ssia_zoo.data.randomness import derive_seed, seed_everything
from ssia_zoo.data.tensors import TensorPixels, reduced_box
from tests.helpers.data_folders import AB, IMAGE, MEAN, STD, encoded, finished, labelled, parquet, pictures, rows

pytestmark = pytest.mark.usefixtures("datasets_cache")

SIDE = 48
COMPLETE: dict[str, Any] = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "hflip": 0.0}


def photo(width: int = SIDE, height: int = SIDE, mode: str = "RGB") -> PIL.Image.Image:
    return pictures(1, 12)[0].resize((width, height), PIL.Image.Resampling.BICUBIC).convert(mode)


def stored(image: PIL.Image.Image, form: str, **options: Any) -> dict[str, Any]:
    file = io.BytesIO()
    image.save(file, form, **options)
    return {"bytes": file.getvalue(), "path": None}


def both(value: dict[str, Any], config: DataConfig, channels: int = 3, seed: int = 7) -> tuple[Tensor, Tensor]:
    """Return an augmented image by tensors and by Pillow, CHW, pixels from 0 to 255."""
    mean, std = (0.0,) * channels, (1.0,) * channels
    pixels = TensorPixels(config, mean, std)
    by_tensors = pixels.augment(pixels.decode(value, 10**9, seed))
    image = decode_image(value)
    seed_everything(seed)
    by_pillow = 255 * train_transform(config, mean, std)(image)
    return by_tensors.permute(2, 0, 1).float(), by_pillow.round()


def sixteen_bits() -> PIL.Image.Image:
    return PIL.Image.fromarray((np.asarray(photo(mode="L")).astype(np.uint16) * 256 + 77).astype(np.uint16))


KINDS: dict[str, Callable[[], dict[str, Any]]] = {
    "JPEG": lambda: stored(photo(), "JPEG"),
    "grey JPEG": lambda: stored(photo(mode="L"), "JPEG"),
    "CMYK JPEG": lambda: stored(photo(mode="CMYK"), "JPEG"),
    "progressive JPEG": lambda: stored(photo(), "JPEG", progressive=True),
    "PNG": lambda: stored(photo(), "PNG"),
    "grey PNG": lambda: stored(photo(mode="L"), "PNG"),
    "bilevel PNG": lambda: stored(photo(mode="1"), "PNG"),
    "palette PNG": lambda: stored(photo(mode="P"), "PNG"),
    "transparent palette": lambda: stored(photo(mode="P"), "PNG", transparency=1),
    "grey and alpha": lambda: stored(photo(mode="LA"), "PNG"),
    "colour and alpha": lambda: stored(photo(mode="RGBA"), "PNG"),
    "16 bits": lambda: stored(sixteen_bits(), "PNG"),
    "CMYK TIFF": lambda: stored(photo(mode="CMYK"), "TIFF"),
    "GIF": lambda: stored(photo(), "GIF"),
    "WebP": lambda: stored(photo(), "WEBP"),
    "BMP": lambda: stored(photo(), "BMP"),
}


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_images_of_every_kind_have_the_pixels_of_pillow(kind: str, channels: int) -> None:
    config = DataConfig("digits", image_size=SIDE, **{**COMPLETE, "hflip": 0.5, "vflip": 0.5})
    for seed in range(3):
        by_tensors, by_pillow = both(KINDS[kind](), config, channels, seed)
        assert torch.equal(by_tensors, by_pillow), "without a resize, to the last bit"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_random_crops_are_those_of_timm_in_every_orientation(orientation: int, form: str) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    value = stored(photo(60, 40), form, exif=exif)
    config = DataConfig("digits", image_size=(24, 32))
    for seed in range(5):
        by_tensors, by_pillow = both(value, config, seed=seed)
        difference = (by_tensors - by_pillow).abs()
        assert difference.mean() < 0.5
        assert (difference <= 1).float().mean() > 0.95


@pytest.mark.parametrize("interpolation", ["nearest", "box", "hamming", "lanczos"])
def test_interpolations_that_tensors_lack_are_those_of_pillow(interpolation: str) -> None:
    config = DataConfig("digits", image_size=20, interpolation=interpolation)
    assert all(torch.equal(*both(stored(photo(), "JPEG"), config, seed=seed)) for seed in range(5))


def test_transparency_is_resized_as_by_pillow() -> None:
    image = photo(mode="RGBA")
    image.putalpha(photo(mode="L").rotate(90))
    config = DataConfig("digits", image_size=20)
    assert all(torch.equal(*both(stored(image, "PNG"), config, 4, seed)) for seed in range(5))


@pytest.mark.parametrize(
    "settings",
    [
        {"auto_augment": "rand-m9-mstd0.5-inc1"},
        {"auto_augment": "augmix-m3-w3"},
        {"auto_augment": "original"},
        {"auto_augment": "3a"},
        {"color_jitter": 0.4},
        {"crop_padding": 4},
        {"crop_padding": 4, "image_size": 32, "interpolation": "bilinear", "auto_augment": "rand-m5"},
    ],
    ids=str,
)
def test_policies_and_padded_crops_are_those_of_timm(settings: dict[str, Any]) -> None:
    config = DataConfig("digits", **{"image_size": SIDE, **COMPLETE, "hflip": 0.5, **settings})
    for seed in range(6):
        assert torch.equal(*both(stored(photo(), "JPEG"), config, seed=seed))


def test_a_jpeg_much_larger_than_the_crop_is_decoded_at_a_fraction_of_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    original = TensorPixels._divisor

    def divisor(self: TensorPixels, box: Any) -> int:
        decoded.append(original(self, box))
        return decoded[-1]

    monkeypatch.setattr(TensorPixels, "_divisor", divisor)
    for side, expected in ((95, 1), (96, 2), (191, 2), (192, 4), (383, 4), (384, 8), (900, 8)):
        value = stored(photo(side, side), "JPEG", quality=95)
        by_tensors, by_pillow = both(value, DataConfig("digits", image_size=32, **COMPLETE))
        assert decoded[-1] == expected
        assert (by_tensors - by_pillow).abs().mean() < 6, "of about 60 between unrelated pixels"


def test_the_reduced_crop_shows_the_same_part() -> None:
    exif = PIL.Image.Exif()
    config = DataConfig("digits", image_size=(16, 24), scale=(0.3, 1.0))
    for orientation in (1, 6):
        exif[0x0112] = orientation
        value = stored(photo(800, 600), "JPEG", exif=exif)
        for seed in range(6):
            by_tensors, by_pillow = both(value, config, seed=seed)
            assert (by_tensors - by_pillow).abs().mean() < 8


@pytest.mark.parametrize("box", [(0, 0, 1, 1), (16, 24, 1, 1), (0, 0, 17, 25), (3, 5, 9, 9)])
@pytest.mark.parametrize("divisor", [1, 2, 4, 8])
def test_a_reduced_box_lies_in_the_image(box: tuple[int, int, int, int], divisor: int) -> None:
    height, width = -(-17 // divisor), -(-25 // divisor)
    top, left, crop_height, crop_width = reduced_box(box, divisor, height, width)
    assert 0 <= top < top + crop_height <= height
    assert 0 <= left < left + crop_width <= width


def test_a_limit_of_pixels_reduces_jpegs_and_refuses_other_images() -> None:
    pixels = TensorPixels(DataConfig("digits", image_size=32, **COMPLETE), MEAN, STD)
    value = stored(photo(), "JPEG")
    assert pixels.decode(value, SIDE**2, 0).shape == (3, SIDE, SIDE)  # type: ignore[union-attr]
    assert pixels.decode(value, SIDE**2 - 1, 0).shape == (3, SIDE // 2, SIDE // 2)  # type: ignore[union-attr]
    for limited in (value, stored(photo(), "PNG")):
        with pytest.raises(ValueError, match="48x48 pixels, but `max_pixels` is 35"):
            pixels.decode(limited, 35, 0)


def test_without_simplejpeg_pillow_gives_the_same_pixels_and_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("simplejpeg")
    images = [stored(photo(40 * n, 30 * n), "JPEG") for n in (1, 2, 4, 9)]
    split = rows({"image": images, "label": [0, 1, 0, 1]}, image=IMAGE, label=AB)
    config = replace(parquet(tmp_path / "d", train=split, test=split), image_size=12)
    seen = []
    for present in (True, False):
        if not present:
            monkeypatch.setattr("ssia_zoo.data.jpeg.simplejpeg", None)
        caplog.clear()
        with caplog.at_level(logging.INFO, "ssia_zoo"):
            loader = train_loader(load_image_data(config), config, mean=MEAN, std=STD, seed=0)
        lines = [message for message in caplog.messages if message.startswith("JPEGs are decoded by")]
        assert len(lines) == 1
        assert present == ("simplejpeg 1." in lines[0])
        assert present != lines[0].endswith("run: pip install 'ssia-zoo[jpeg]'")
        seen.append([images for images, *_ in loader])
    assert all(torch.equal(one, other) for one, other in zip(*seen, strict=True))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({}, None),
        ({"auto_augment": "rand-m5"}, "`auto_augment` runs on Pillow images, as in timm"),
        ({"color_jitter": 0.2}, "`color_jitter` runs on Pillow images, as in timm"),
        (
            {"interpolation": "box"},
            "crops are resized as Pillow images: tensors do not support interpolation box",
        ),
        ({"pixels": "pil", "auto_augment": "rand-m5"}, None),
    ],
)
def test_what_runs_on_pillow_images_is_said_in_one_line(
    settings: dict[str, Any], line: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    split = labelled([0, 1])
    config = replace(parquet(tmp_path / "d", train=split, test=split), **settings)
    data = load_image_data(config)
    with caplog.at_level(logging.INFO, "ssia_zoo"):
        caplog.clear()
        train_loader(data, config, mean=MEAN, std=STD, seed=0)
    assert caplog.messages == ([line] if line else [])


@pytest.mark.covers("pixels")
def test_batches_are_bytes_by_tensors_and_timms_floats_by_pillow(tmp_path: Path) -> None:
    split = rows({"image": [stored(photo(), "JPEG")] * 4, "label": [0, 1, 0, 1]}, image=IMAGE, label=AB)
    config = replace(parquet(tmp_path / "d", train=split, test=split), image_size=16, random_erase=1.0)
    by_path = {}
    for path in ("tensor", "pil"):
        given = replace(config, pixels=path)
        loader = train_loader(load_image_data(given), given, mean=MEAN, std=STD, seed=3)
        by_path[path] = next(iter(loader))
    images, labels, indices, seeds = by_path["tensor"]
    assert (images.dtype, images.shape) == (torch.uint8, (2, 16, 16, 3))
    assert len(set(seeds)) == 2
    expected, same_labels, same_indices = by_path["pil"]
    assert (expected.dtype, expected.shape) == (torch.float32, (2, 3, 16, 16))
    assert torch.equal(labels, same_labels)
    assert torch.equal(indices, same_indices)
    image = decode_image(stored(photo(), "JPEG"))
    (epoch, index), *_ = list(loader.sampler)
    seed_everything(derive_seed(3, epoch, index))
    assert torch.equal(expected[0], train_transform(given, MEAN, STD)(image)), "bit for bit"


def test_a_batch_becomes_the_models_input_on_the_device() -> None:
    images = torch.arange(2 * 4 * 5 * 3, dtype=torch.uint8).reshape(2, 4, 5, 3)
    seen, labels, indices = finished((images, torch.tensor([0, 1]), torch.tensor([5, 6])))
    expected = ((images / 255 - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2)
    assert torch.equal(seen, expected)
    assert seen.is_contiguous()
    assert (labels.tolist(), indices.tolist()) == ([0, 1], [5, 6])
    assert finished((seen, labels, indices))[0] is seen, "normalized images are left as they are"


@pytest.mark.covers("random_erase", "random_erase_mode", "random_erase_count")
def test_erasing_on_the_device_is_timms_and_depends_on_the_seed_alone() -> None:
    white = torch.full((3, 64, 64, 3), 255, dtype=torch.uint8)
    labels = torch.zeros(3, dtype=torch.int64)

    def erased(seeds: list[int], **settings: Any) -> Tensor:
        config = DataConfig("digits", **{"random_erase": 1.0, **settings})
        images = finished((white[: len(seeds)], labels, labels, seeds), config)[0]
        assert isinstance(images, Tensor)
        return images

    def colours(image: Tensor) -> Tensor:
        pixels = image.flatten(1)
        return pixels[:, pixels[0] != 2].unique(dim=1)

    state = torch.get_rng_state(), random.getstate()
    for mode in ("const", "rand", "pixel"):
        images = erased([5, 6, 5], random_erase_mode=mode)
        assert torch.equal(images[0], images[2])
        assert torch.equal(images[1], erased([6], random_erase_mode=mode)[0])
        assert not torch.equal(images[0], images[1])
    assert torch.equal(torch.get_rng_state(), state[0])
    assert random.getstate() == state[1]
    assert not colours(erased([1])[0]).any(), "the mean is 0"
    assert colours(erased([1], random_erase_mode="rand")[0]).shape[1] == 1, "one colour"
    assert colours(erased([1], random_erase_mode="pixel")[0]).shape[1] > 100, "a colour each"
    several = [colours(erased([n], random_erase_mode="rand", random_erase_count=8)[0]).shape[1] for n in range(5)]
    assert max(several) > 1, "several rectangles"
    assert (erased([1, 2, 3], random_erase=0.0) == 2).all()


def test_other_channels_are_converted_as_by_pillow() -> None:
    value = {"bytes": encoded(photo(), "JPEG"), "path": None}
    for channels in (1, 4):
        pixels = TensorPixels(DataConfig("digits", image_size=SIDE, **COMPLETE), (0.5,) * channels, (0.5,) * channels)
        seen = pixels.augment(pixels.decode(value, 10**9, 0)).numpy().squeeze()
        assert np.array_equal(seen, np.asarray(ConvertMode(channels)(decode_image(value))))
