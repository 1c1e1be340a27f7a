"""Decode images of every format and mode to RGB."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from ssia_zoo.data import eval_loader, load_image_data, train_loader
from ssia_zoo.data.decode import decode_rgb, stored_mode
from ssia_zoo.errors import DataError
from tests.helpers.data_folders import MEAN, STD, encoded, labelled, parquet, pictures

pytestmark = pytest.mark.usefixtures("datasets_cache")


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


def png(width: int, height: int, depth: int, colour_type: int, pixels: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part))
        for name, part in ((b"IHDR", header), (b"IDAT", zlib.compress(pixels)), (b"IEND", b""))
    )


def png_of_16_bits(colour_type: int, *pixels: tuple[int, ...]) -> bytes:
    """Return a PNG of one row; Pillow reads 16-bit colours, but does not write them."""
    row = b"\0" + b"".join(struct.pack(f">{len(pixel)}H", *pixel) for pixel in pixels)
    return png(len(pixels), 1, 16, colour_type, row)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (png_of_16_bits(2, (0, 771, 65535), (32896, 128, 255)), [[0, 3, 255], [128, 0, 0]]),
        (png_of_16_bits(4, (1799, 65535), (1799, 0)), [[7, 7, 7], [7, 7, 7]]),
        (png_of_16_bits(6, (1799, 257, 0, 0)), [[7, 1, 0]]),
        (b"P5 2 1 65535\n" + struct.pack(">2H", 257, 65535), [[1, 1, 1], [255, 255, 255]]),
        (b"P5 2 1 1023\n" + struct.pack(">2H", 0, 1023), [[0, 0, 0], [255, 255, 255]]),
    ],
    ids=["colour PNG", "grey and alpha PNG", "colour and alpha PNG", "PGM", "PGM of 10 bits"],
)
def test_sixteen_bits_of_other_kinds_are_scaled_too(content: bytes, expected: list[list[int]]) -> None:
    assert np.asarray(decode_rgb({"bytes": content, "path": None}))[0].tolist() == expected


@pytest.mark.parametrize(
    ("suffix", "options"), [(".gif", {}), (".webp", {"lossless": True}), (".png", {}), (".tiff", {})]
)
def test_of_an_animation_the_first_frame_is_read(tmp_path: Path, suffix: str, options: dict[str, Any]) -> None:
    first, second = PIL.Image.new("RGB", (8, 8), (250, 10, 20)), PIL.Image.new("RGB", (8, 8), (10, 20, 250))
    read = stored(first, tmp_path, suffix, save_all=True, append_images=[second], **options)
    assert PIL.Image.open(tmp_path / f"image{suffix}").n_frames == 2  # type: ignore[attr-defined]
    assert read.shape == (8, 8, 3)
    assert np.unique(read.reshape(-1, 3), axis=0).tolist() == [[250, 10, 20]]


def test_a_cmyk_photograph_has_the_colours_it_was_stored_with(tmp_path: Path) -> None:
    image = PIL.Image.new("RGB", (16, 16), (240, 60, 20))
    read = stored(image.convert("CMYK"), tmp_path, ".jpg", quality=95)
    assert np.abs(read - (240, 60, 20)).max() <= 3


@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_transparency_is_dropped_and_the_colour_below_it_kept(tmp_path: Path, suffix: str) -> None:
    palette = PIL.Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 200, 100, 50])
    assert stored(palette, tmp_path, suffix, transparency=1)[0, 0].tolist() == [200, 100, 50]
    rgba = PIL.Image.new("RGBA", (4, 4), (200, 100, 50, 0))
    assert stored(rgba, tmp_path, ".png")[0, 0].tolist() == [200, 100, 50]


def test_thirty_two_bit_pixels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no fixed range"):
        stored(PIL.Image.fromarray(np.zeros((2, 2), dtype=np.float32)), tmp_path, ".tiff")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tiff"])
def test_a_photograph_is_turned_as_its_exif_says(tmp_path: Path, suffix: str) -> None:
    image = PIL.Image.new("RGB", (16, 8))
    image.paste((255, 255, 255), (0, 0, 8, 8))  # the left half is white
    exif = PIL.Image.Exif()
    exif[PIL.Image.ExifTags.Base.Orientation] = 6  # to be turned clockwise
    read = stored(image, tmp_path, suffix, exif=exif)
    assert read.shape == (16, 8, 3)
    assert read[:6].min() > 200
    assert read[10:].max() < 50


def damaged_exif(kind: str) -> bytes:
    """Return a JPEG of 16x8, white on the left, with an EXIF orientation (clockwise) and a damaged EXIF field."""
    image = PIL.Image.new("RGB", (16, 8))
    image.paste((255, 255, 255), (0, 0, 8, 8))
    tags = {"text": (0x011A, 2, 8, b"seventy\0"), "offset": (0x8769, 4, 1, struct.pack("<I", 99999))}
    entries = [(0x0112, 3, 1, struct.pack("<HH", 6, 0))]
    extra = b""
    if kind in tags:
        tag, form, count, value = tags[kind]
        if len(value) > 4:
            value, extra = struct.pack("<I", 8 + 2 + 12 * 2 + 4), value
        entries.append((tag, form, count, value))
    body = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in sorted(entries))
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + body + struct.pack("<I", 0) + extra
    if kind == "cut":
        exif = exif[:20]
    if kind == "garbage":
        exif = b"Exif\0\0" + bytes(range(40))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["text", "offset", "cut", "garbage"])
def test_damaged_metadata_do_not_make_an_image_unreadable(kind: str) -> None:
    read = np.asarray(decode_rgb({"bytes": damaged_exif(kind), "path": None}))
    if kind in ("text", "offset"):  # the orientation can be read, and is applied
        assert read.shape == (16, 8, 3)
        assert read[:6].min() > 200
        assert read[10:].max() < 50
    else:
        assert read.shape == (8, 16, 3)


@pytest.mark.parametrize("name", [b"iCCP", b"zTXt", b"iTXt", b"pHYs", b"eXIf", b"tIME", b"gAMA"])
def test_damaged_metadata_chunks_of_a_png_are_ignored(name: bytes) -> None:
    content = encoded(PIL.Image.new("RGB", (4, 4), (10, 20, 30)))
    bomb = b"comment\0\0" + zlib.compress(bytes(80_000_000))
    for part in (b"?", bomb):
        chunk = struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part))
        read = decode_rgb({"bytes": content[:33] + chunk + content[33:], "path": None})
        assert read.getpixel((1, 1)) == (10, 20, 30)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_that_of_pillow(orientation: int) -> None:
    image = pictures(1)[0].crop((0, 0, 8, 5))
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    expected = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(file.getvalue())))
    assert np.array_equal(np.asarray(decode_rgb({"bytes": file.getvalue(), "path": None})), np.asarray(expected))


def test_a_large_jpeg_is_decoded_at_a_fraction_of_its_size() -> None:
    content = encoded(PIL.Image.new("RGB", (640, 320), (200, 100, 50)), "JPEG")
    for limit, size in ((640 * 320, (640, 320)), (640 * 320 - 1, (320, 160)), (160 * 80, (160, 80)), (3200, (80, 40))):
        assert decode_rgb({"bytes": content, "path": None}, limit).size == size
    with pytest.raises(ValueError, match="640x320 pixels, but `max_pixels` is 3199"):
        decode_rgb({"bytes": content, "path": None}, 3199)
    with pytest.raises(ValueError, match="640x320 pixels, but `max_pixels` is 1000"):
        decode_rgb({"bytes": encoded(PIL.Image.new("RGB", (640, 320))), "path": None}, 1000)


def test_images_above_pillows_limit_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 100)
    for form in ("JPEG", "PNG"):
        content = encoded(PIL.Image.new("RGB", (64, 32), (200, 100, 50)), form)
        assert decode_rgb({"bytes": content, "path": None}).size == (64, 32)
    assert PIL.Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.covers("max_pixels")
@pytest.mark.parametrize("streaming", [False, True])
def test_loaders_apply_the_limit_of_pixels(tmp_path: Path, streaming: bool) -> None:
    config = replace(parquet(tmp_path / "d", train=labelled([0, 1]), test=labelled([0, 1])), streaming=streaming)
    for max_pixels, unreadable in ((64, 0), (63, 2)):
        limited = replace(config, max_pixels=max_pixels, max_corrupt=1.0)
        data = load_image_data(limited)
        if not unreadable:
            list(train_loader(data, limited, mean=MEAN, std=STD, seed=0))
        list(eval_loader(data, limited, mean=MEAN, std=STD))
        data.unreadable_eval.collect()
        data.unreadable_train.collect()
        assert (len(data.unreadable_eval), len(data.unreadable_train)) == (unreadable, 0)
        if unreadable:
            with pytest.raises(DataError, match="no image of a batch can be read"):
                list(train_loader(data, limited, mean=MEAN, std=STD, seed=0))


def icon(kind: str, width: int, height: int, pixels: bytes) -> bytes:
    """Return an icon whose header states 16x16 (ICO) or 128x128 (ICNS), and which holds a PNG of another size."""
    content = png(width, height, 8, 0, pixels)
    if kind == "ICNS":
        return b"icns" + struct.pack(">I", 16 + len(content)) + b"ic07" + struct.pack(">I", 8 + len(content)) + content
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(content), 22) + content


@pytest.mark.parametrize("kind", ["ICO", "ICNS"])
def test_an_icon_that_holds_a_larger_image_is_refused_before_it_is_decoded(kind: str) -> None:
    with pytest.raises(ValueError, match=r"than `max_pixels` \(20000\)"):
        decode_rgb({"bytes": icon(kind, 2000, 2000, b"damaged")}, 20_000)
    assert stored_mode({"bytes": icon(kind, 20_000, 20_000, b"damaged")}) in (None, "RGBA")


@pytest.mark.filterwarnings("ignore:Image was not the expected size", "ignore:Image size")
def test_an_icon_that_holds_an_image_of_less_than_twice_the_limit_is_refused_too() -> None:
    small, large = (icon("ICO", width, 100, 100 * bytes(1 + width)) for width in (30, 300))
    assert decode_rgb({"bytes": small}, 20_000).size == (30, 100)
    with pytest.raises(ValueError, match="300x100 pixels, but `max_pixels` is 20000"):
        decode_rgb({"bytes": large}, 20_000)


def one_scan_each(content: bytes) -> bytes:
    """Make the first scan of a JPEG one of its first channel alone."""
    scan = content.index(b"\xff\xda")
    return content[: scan + 4] + b"\1" + content[scan + 5 :]


def test_a_large_jpeg_of_several_scans_is_refused_as_it_would_be_kept_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ssia_zoo.data.decode._BUFFERED_PIXELS", 10_000)
    image = PIL.Image.new("RGB", (160, 100), (200, 100, 50))
    sequential, progressive = (encoded(image, "JPEG", progressive=kind) for kind in (False, True))
    assert decode_rgb({"bytes": sequential}, 8_000).size == (80, 50)
    assert decode_rgb({"bytes": progressive}, 16_000).size == (160, 100)
    for content in (progressive, one_scan_each(sequential)):
        with pytest.raises(ValueError, match="progressive JPEG of 160x100 pixels, but the limit of those is 10000"):
            decode_rgb({"bytes": content}, 8_000)
        with pytest.raises(ValueError, match="the limit of those is 15999"):
            decode_rgb({"bytes": content}, 15_999)
    smaller = encoded(image.resize((100, 100)), "JPEG", progressive=True)
    assert decode_rgb({"bytes": smaller}, 8_000).size == (50, 50)
