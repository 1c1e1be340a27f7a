"""Decode images of any format to upright 8-bit greyscale, RGB or RGBA."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import fsspec
import numpy as np
import PIL.ExifTags
import PIL.Image

from ssia_zoo.data.config import MAX_PIXELS

_TRANSPOSES = {  # by EXIF orientation; ImageOps.exif_transpose also rewrites the EXIF data, and fails if damaged
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
_TRANSPARENT = ("LA", "La", "PA", "RGBA", "RGBa")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf")
_ICO_SIGNATURE = b"\0\0\1\0"
_SEQUENTIAL, _PROGRESSIVE, _SCAN = (0xC0, 0xC1, 0xC9), (0xC2, 0xCA), 0xDA  # markers of a JPEG

_BUFFERED_PIXELS = 50_000_000
"""Largest JPEG of several scans, unless `max_pixels` is higher: its coefficients take up to 6 bytes per pixel."""


def decode_rgb(value: dict[str, Any], max_pixels: int = MAX_PIXELS) -> PIL.Image.Image:
    """Decode an image to upright 8-bit RGB, without transparency; arguments and errors are those of `decode_image`."""
    return decode_image(value, max_pixels).convert("RGB")


def decode_image(value: dict[str, Any], max_pixels: int = MAX_PIXELS, divisor: int = 1) -> PIL.Image.Image:
    """Decode an image to upright 8 bits of mode L (greyscale), RGB, or RGBA (with transparency).

    16-bit grey is scaled to 8 bits (Pillow would clip it), other modes such as CMYK and palettes become RGB or RGBA,
    and metadata that cannot be read are ignored.

    Args:
        value: An undecoded image as the library datasets stores it, with "bytes" or "path".
        max_pixels: Most pixels to decode; a larger JPEG is decoded at a half, a quarter or an eighth of its size (see
            `limit_divisor`).
        divisor: Decode a JPEG at this fraction of its size, or a smaller one if `max_pixels` asks for it: 1, 2, 4 or 8.

    Raises:
        Exception: Any error that the decoder raises on a damaged file.
    """
    content = read_content(value)
    try:
        image = _load(content, max_pixels, divisor)
    except Exception:
        bare = _without_metadata(content)
        if bare is None:
            raise
        image = _load(bare, max_pixels, divisor)
    image = _transpose_by_exif(image)
    # Pillow reads 16-bit PGM as 32-bit pixels in the range of 16 bits.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return PIL.Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"32-bit pixels (mode {image.mode!r}) have no fixed range: store 8 or 16 bits")
    mode = _mode(image)
    return image if image.mode == mode else image.convert(mode)


def stored_mode(value: dict[str, Any]) -> str | None:
    """Return the mode that `decode_image` gives an image, from its header alone; None if that cannot be read."""
    path: Any = value.get("path")
    try:
        on_disk = value.get("bytes") is None and path is not None and "://" not in path
        with open(path, "rb") if on_disk else io.BytesIO(read_content(value)) as file, _open(file, MAX_PIXELS) as image:
            return _mode(image)
    except Exception:  # decoders raise any kind of error on damaged files
        return None


def _mode(image: PIL.Image.Image) -> str:
    if image.mode in _TRANSPARENT or ("transparency" in image.info and not image.mode.startswith("I")):
        return "RGBA"
    return "L" if image.mode in ("1", "L", "F") or image.mode.startswith("I") else "RGB"


def read_content(value: dict[str, Any]) -> bytes:
    """Read an undecoded image, in the form of `decode_image`.

    Raises:
        ValueError, OSError: There is none, or its file cannot be read.
    """
    if value.get("bytes") is not None:
        return bytes(value["bytes"])
    path = value.get("path")
    if path is None:
        raise ValueError("there is no image")
    with open(path, "rb") if "://" not in path else fsspec.open(path) as file:
        content: bytes = file.read()
    return content


def _load(content: bytes, max_pixels: int, divisor: int) -> PIL.Image.Image:
    try:
        image = _open(io.BytesIO(content), max_pixels)
        width, height = image.size
        if is_jpeg(image):
            divisor = max(divisor, limit_divisor(content, width, height, max_pixels))
            if divisor > 1:
                image.draft(image.mode, (max(1, width // divisor), max(1, height // divisor)))
        else:
            _check_size(image, max_pixels)
        with pillow_limit(None if is_jpeg(image) else max_pixels):
            image.load()
    except PIL.UnidentifiedImageError:  # its message holds a memory address
        raise PIL.UnidentifiedImageError("cannot identify image file: not an image, or damaged") from None
    except PIL.Image.DecompressionBombError as error:
        raise ValueError(f"more pixels than its header states, and than `max_pixels` ({max_pixels})") from error
    _check_size(image, max_pixels)  # an icon may hold a larger image than its header states
    return image


def _open(file: IO[bytes], max_pixels: int) -> PIL.Image.Image:
    """Open an image of any size, but of an ICO, which Pillow decodes at once, with up to twice `max_pixels`."""
    signature = file.read(len(_ICO_SIGNATURE))
    file.seek(0)
    with pillow_limit(max_pixels if signature == _ICO_SIGNATURE else None):
        return PIL.Image.open(file)


def is_jpeg(image: PIL.Image.Image) -> bool:
    """Return whether an opened image is a JPEG, the one format that can be decoded at a fraction of its size."""
    return image.format in ("JPEG", "MPO")


def limit_divisor(content: bytes, width: int, height: int, max_pixels: int) -> int:
    """Return the divisor of a JPEG's size, 1, 2, 4 or 8, at which it has at most `max_pixels`.

    Raises:
        ValueError: It has more at an eighth of its size, or is a large one of several scans (progressive), of which
            libjpeg keeps the coefficients of the full size.
    """
    if width * height <= max_pixels:
        return 1
    limit = max(max_pixels, _BUFFERED_PIXELS)
    if width * height > limit and _has_several_scans(content):
        raise ValueError(
            f"a progressive JPEG of {width}x{height} pixels, but the limit of those is {limit}: shrink the image, or "
            "raise `max_pixels`"
        )
    for divisor in (2, 4, 8):
        if -(-width // divisor) * -(-height // divisor) <= max_pixels:
            return divisor
    raise _too_large(width, height, max_pixels)


def _has_several_scans(content: bytes) -> bool:
    """Return whether a JPEG is progressive, or stores its colours one after the other."""
    start, channels = 2, 0
    while start + 10 <= len(content):
        marker, length = content[start + 1], int.from_bytes(content[start + 2 : start + 4], "big")
        if content[start] != 0xFF or marker == 0xFF:  # padding
            start += 1
            continue
        if marker in _PROGRESSIVE:
            return True
        if marker in _SEQUENTIAL:
            channels = content[start + 9]
        if marker == _SCAN:
            return content[start + 4] < channels
        start += 2 + length
    return True


def _check_size(image: PIL.Image.Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise _too_large(*image.size, max_pixels)


def _too_large(width: int, height: int, max_pixels: int) -> ValueError:
    return ValueError(
        f"{width}x{height} pixels, but `max_pixels` is {max_pixels}: shrink the image, or raise the limit"
    )


@contextmanager
def pillow_limit(max_pixels: int | None) -> Iterator[None]:
    """Set the limit at which Pillow warns of many pixels (it refuses twice as many); None disables it.

    Pillow would refuse a JPEG before it can be reduced.
    """
    limit = PIL.Image.MAX_IMAGE_PIXELS
    PIL.Image.MAX_IMAGE_PIXELS = max_pixels
    try:
        yield
    finally:
        PIL.Image.MAX_IMAGE_PIXELS = limit


def _transpose_by_exif(image: PIL.Image.Image) -> PIL.Image.Image:
    """Turn an image upright by its EXIF orientation."""
    method = _TRANSPOSES.get(exif_orientation(image))
    if method is None:
        return image
    upright = image.transpose(method)
    upright.format = image.format
    return upright


def exif_orientation(image: PIL.Image.Image) -> int:
    """Return an image's EXIF orientation, 1 (upright) to 8; ignore damage to other EXIF fields."""
    try:
        orientation = image.getexif().get(PIL.ExifTags.Base.Orientation)
    except Exception:  # damaged metadata raise any kind of error
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _without_metadata(content: bytes) -> bytes | None:
    """Return a PNG without the chunks that do not affect its pixels; None if it has none, or for other formats."""
    if not content.startswith(_PNG_SIGNATURE):
        return None
    kept, start = [_PNG_SIGNATURE], len(_PNG_SIGNATURE)
    while start + 12 <= len(content):
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        if content[start + 4 : start + 8] in _PNG_PIXEL_CHUNKS:
            kept.append(content[start:end])
        start = end
    bare = b"".join(kept)
    return bare if len(bare) < len(content) else None
