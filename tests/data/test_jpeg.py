"""JPEGs decoded by simplejpeg have the pixels of Pillow, and Pillow decodes all that simplejpeg does not take."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import PIL.Image
import pytest

from ssia_zoo.data import DataConfig
from ssia_zoo.data.decode import decode_image, decode_rgb
from ssia_zoo.data.jpeg import decode_jpeg, decoder_version, read_header
from ssia_zoo.data.tensors import TensorPixels
from tests.helpers.data_folders import MEAN, STD, encoded, pictures

pytest.importorskip("simplejpeg")


def photo(width: int, height: int, mode: str = "RGB") -> PIL.Image.Image:
    """Return a smooth image with edges, as JPEG keeps it."""
    return pictures(1, 12)[0].resize((width, height), PIL.Image.Resampling.BICUBIC).convert(mode)


def jpeg_of(image: PIL.Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def fast(content: bytes, mode: str = "RGB", divisor: int = 1) -> Any:
    header = read_header(content)
    assert header is not None
    return decode_jpeg(content, header, mode, divisor)


@pytest.mark.parametrize("size", [(64, 48), (37, 23), (16, 9), (1, 1), (7, 200)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"quality": 30},
        {"subsampling": "4:4:4"},
        {"subsampling": "4:2:2"},
        {"progressive": True},
        {"restart_marker_blocks": 1},
        {"keep_rgb": True},
        {"optimize": True, "comment": b"x" * 60000},
    ],
    ids=str,
)
def test_pixels_are_those_of_pillow_at_each_size(size: tuple[int, int], options: dict[str, Any]) -> None:
    content = jpeg_of(photo(*size), **options)
    for divisor in (divisor for divisor in (1, 2, 4, 8) if divisor <= min(size)):
        expected = np.asarray(decode_image({"bytes": content}, divisor=divisor))
        assert expected.shape[:2] == tuple(-(-side // divisor) for side in reversed(size))
        seen = fast(content, divisor=divisor)
        assert np.array_equal(seen, expected)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_grey_jpeg_is_decoded_to_one_channel_or_three(mode: str) -> None:
    content = jpeg_of(photo(40, 30, "L"))
    seen = fast(content, mode)
    assert np.array_equal(seen.squeeze(), np.asarray(decode_image({"bytes": content}).convert(mode)))


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("divisor", [1, 4])
def test_every_orientation_is_that_of_pillow(orientation: int, divisor: int) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    content = jpeg_of(photo(40, 24), exif=exif)
    expected = np.asarray(decode_image({"bytes": content}, divisor=divisor))
    assert np.array_equal(fast(content, divisor=divisor), expected)
    header = read_header(content)
    assert header is not None
    assert header.upright == np.asarray(decode_image({"bytes": content})).shape[:2]


def test_other_formats_and_modes_are_left_to_pillow() -> None:
    assert fast(jpeg_of(photo(16, 16).convert("CMYK"))) is None
    for form in ("PNG", "WEBP", "GIF", "TIFF", "BMP"):
        assert read_header(encoded(photo(16, 16), form)) is None
    for damaged in (b"", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8 no image"):
        assert read_header(damaged) is None


def test_the_first_picture_of_several_in_a_file_is_decoded() -> None:
    file = io.BytesIO()
    photo(32, 24).save(file, "MPO", save_all=True, append_images=[PIL.Image.new("RGB", (32, 24))])
    assert np.array_equal(fast(file.getvalue()), np.asarray(decode_rgb({"bytes": file.getvalue()})))


def outcome(content: bytes, by_tensors: bool) -> bytes | str:
    """Return the pixels of an image as bytes, or "unreadable"."""
    try:
        if by_tensors:
            pixels = TensorPixels(DataConfig("digits", image_size=64), MEAN, STD)
            return pixels.decode({"bytes": content}, 10**9, 0).numpy().tobytes()  # type: ignore[union-attr]
        return np.asarray(decode_rgb({"bytes": content})).transpose(2, 0, 1).tobytes()
    except Exception:
        return "unreadable"


@pytest.mark.parametrize("progressive", [False, True])
def test_truncated_and_damaged_files_are_read_or_refused_as_by_pillow(
    progressive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssia_zoo.data.tensors.draw_box", lambda crop, height, width: (0, 0, height, width))
    content = jpeg_of(photo(24, 24), quality=80, progressive=progressive)
    numbers = np.random.default_rng(0)
    cut = [content[:length] for length in range(0, len(content), 7)] + [content[:-1], content[:-2]]
    longer = [content + b"trailing", content + content]
    spoiled = []
    for _ in range(200):
        damaged = bytearray(content)
        damaged[numbers.integers(2, len(content))] = numbers.integers(0, 256)
        spoiled.append(bytes(damaged))
    for case in [content, *cut, *longer, *spoiled]:
        assert outcome(case, True) == outcome(case, False)


def test_the_version_is_that_of_the_installed_package(monkeypatch: pytest.MonkeyPatch) -> None:
    assert decoder_version()
    monkeypatch.setattr("ssia_zoo.data.jpeg.simplejpeg", None)
    assert decoder_version() is None
