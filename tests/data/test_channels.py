"""Images of one, three and four channels: decoding, conversion to the model's channels, and what is reported of it."""

from __future__ import annotations

import io
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from ssia_zoo.data import DataConfig, eval_transform, load_image_data, train_loader, train_transform
from ssia_zoo.data.channels import report_conversions
from ssia_zoo.data.decode import decode_image, decode_rgb, stored_mode
from ssia_zoo.data.preprocessing import ConvertMode
from ssia_zoo.errors import ConfigError
from tests.helpers.data_folders import AB, IMAGE, encoded, finished, parquet, pictures, rows

pytestmark = pytest.mark.usefixtures("datasets_cache")

CONFIG = DataConfig("digits", image_size=8, batch_size=2, workers=0, hflip=0.0, scale=(1.0, 1.0), ratio=(1.0, 1.0))
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def picture(mode: str) -> PIL.Image.Image:
    """Return an image of a mode, with random transparency if it has any."""
    image = pictures(1)[0].convert(mode)
    if mode in ("RGBA", "LA"):
        alpha = np.random.default_rng(1).integers(0, 256, (8, 8), dtype=np.uint8)
        image.putalpha(PIL.Image.fromarray(alpha))
    return image


def palette() -> PIL.Image.Image:
    image = PIL.Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    return image


def stored(image: PIL.Image.Image, form: str, **options: Any) -> dict[str, Any]:
    file = io.BytesIO()
    image.save(file, form, **options)
    return {"bytes": file.getvalue(), "path": None}


@pytest.mark.parametrize(
    ("value", "mode"),
    [
        (stored(picture("L"), "PNG"), "L"),
        (stored(picture("1"), "PNG"), "L"),
        (stored(picture("L"), "JPEG"), "L"),
        (stored(picture("L"), "PNG", transparency=3), "RGBA"),
        (stored(picture("LA"), "PNG"), "RGBA"),
        (stored(picture("RGB"), "PNG"), "RGB"),
        (stored(picture("RGB"), "PNG", transparency=(1, 2, 3)), "RGBA"),
        (stored(picture("RGBA"), "PNG"), "RGBA"),
        (stored(picture("CMYK"), "TIFF"), "RGB"),
        (stored(palette(), "PNG"), "RGB"),
        (stored(palette(), "PNG", transparency=1), "RGBA"),
        (stored(PIL.Image.fromarray(np.zeros((4, 4), dtype=np.uint16)), "PNG"), "L"),
    ],
)
def test_an_image_is_decoded_to_the_channels_it_has(value: dict[str, Any], mode: str) -> None:
    assert decode_image(value).mode == stored_mode(value) == mode
    assert decode_rgb(value).mode == "RGB"


def test_transparency_is_kept_for_four_channels_and_dropped_for_three() -> None:
    image = picture("RGBA")
    assert np.array_equal(np.asarray(decode_image(stored(image, "PNG"))), np.asarray(image))
    assert np.array_equal(np.asarray(ConvertMode(3)(image)), np.asarray(image)[..., :3])
    opaque = np.asarray(ConvertMode(4)(picture("RGB")))
    assert np.array_equal(opaque[..., :3], np.asarray(picture("RGB")))
    assert (opaque[..., 3] == 255).all()


@pytest.mark.parametrize("crop_padding", [0, 2])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_transforms_give_the_pixels_of_pillows_conversion(channels: int, mode: str, crop_padding: int) -> None:
    mean, std = tuple(0.1 * (n + 1) for n in range(channels)), tuple(0.2 * (n + 1) for n in range(channels))
    pixels = np.asarray(picture(mode).convert(MODES[channels])).reshape(8, 8, channels)
    expected = (torch.from_numpy(pixels / 255) - torch.tensor(mean)) / torch.tensor(std)
    seen = eval_transform(CONFIG, mean, std)(picture(mode))
    torch.testing.assert_close(seen, expected.permute(2, 0, 1).float())
    torch.manual_seed(0)
    trained = train_transform(replace(CONFIG, crop_padding=crop_padding), mean, std)(picture(mode))
    assert trained.shape == (channels, 8, 8)
    if not crop_padding:
        torch.testing.assert_close(trained, seen)


@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5-inc1", "augmix-m3-w3"])
def test_augmentation_policies_take_one_channel_and_are_refused_for_four(policy: str) -> None:
    config = replace(CONFIG, auto_augment=policy, color_jitter=0.3, random_erase=0.5)
    transform = train_transform(config, (0.5,), (0.25,))
    assert all(transform(picture("RGB")).shape == (1, 8, 8) for _ in range(20))
    with pytest.raises(ConfigError, match=r"`auto_augment` is .* four channels; leave it out"):
        train_transform(config, (0.5,) * 4, (0.25,) * 4)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("size", [8, (8, 16)])
def test_cached_batches_of_other_channels_and_sizes_are_those_of_the_ordinary_loader(
    tmp_path: Path, channels: int, size: Any
) -> None:
    images = [image.resize((32, 16) if isinstance(size, tuple) else (16, 16)) for image in pictures(6)]
    part = rows({"image": images, "label": [0, 1] * 3}, image=IMAGE, label=AB)
    config = replace(parquet(tmp_path, train=part, test=part), image_size=size, crop_padding=2)
    batches = []
    for cached in (False, True):
        given = replace(config, cache_images=cached)
        loader = train_loader(load_image_data(given), given, mean=(0.4,) * channels, std=(0.3,) * channels, seed=1)
        batches.append([finished(batch, None, (0.4,) * channels, (0.3,) * channels) for batch in loader])
    for (one, *_), (other, *_) in zip(*batches, strict=True):
        assert torch.equal(one, other)
        assert one.shape[1:] == (channels, *(size if isinstance(size, tuple) else (size, size)))


@pytest.mark.parametrize(
    ("channels", "modes", "expected"),
    [
        (1, ["L", "RGB", "RGBA"], "greyscale (Pillow's mode L), as the model takes one channel: 2 of 3 sampled"),
        (3, ["L", "RGB", "RGBA"], "(the colours below it are kept), as the model takes RGB: 1 of 3 sampled"),
        (4, ["L", "RGB", "RGBA"], "the model takes four channels: 2 of 3 sampled"),
        (1, ["L", "L"], None),
        (3, ["L", "RGB"], None),
        (4, ["RGBA"], None),
    ],
)
def test_conversions_are_reported_in_one_line(
    channels: int, modes: list[str], expected: str | None, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    values = [{"bytes": encoded(picture(mode)), "path": None} for mode in modes]
    values.append({"bytes": b"no image", "path": None})
    path = tmp_path / "x.png"
    path.write_bytes(values[0].pop("bytes"))
    values[0] = {"bytes": None, "path": str(path)}
    part = rows({"image": values[: len(modes)], "label": [0] * len(modes)}, image=IMAGE, label=AB)
    with caplog.at_level(logging.WARNING, "ssia_zoo"):
        report_conversions(part, "image", channels)
    assert len(caplog.records) == (expected is not None)
    assert expected is None or expected in caplog.text


def test_another_number_of_channels_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"takes images of 2 channels; expected 1 \(greyscale\), 3 .* or 4"):
        ConvertMode(2)
    with pytest.raises(ConfigError, match="2 channels"):
        train_transform(CONFIG, (0.5, 0.5), (0.5, 0.5))
