"""Decode images of any format to upright 8-bit greyscale, RGB or RGBA."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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


def decode_rgb(value: dict[str, Any], max_pixels: int = MAX_PIXELS) -> PIL.Image.Image:
    """Decode an image to upright 8-bit RGB, without transparency; arguments and errors are those of `decode_image`."""
    return decode_image(value, max_pixels).convert("RGB")


def decode_image(value: dict[str, Any], max_pixels: int = MAX_PIXELS) -> PIL.Image.Image:
    """Decode an image to upright 8 bits of mode L (greyscale), RGB, or RGBA (with transparency).

    16-bit grey is scaled to 8 bits (Pillow would clip it), other modes such as CMYK and palettes become RGB or RGBA,
    and metadata that cannot be read are ignored.

    Args:
        value: An undecoded image as the library datasets stores it, with "bytes" or "path".
        max_pixels: Most pixels to decode; a larger JPEG is decoded at a half, a quarter or an eighth of its size.

    Raises:
        Exception: Any error that the decoder raises on a damaged file.
    """
    content = _read(value)
    try:
        image = _load(content, max_pixels)
    except Exception:
        bare = _without_metadata(content)
        if bare is None:
            raise
        image = _load(bare, max_pixels)
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
    path = value.get("path")
    try:
        on_disk = value.get("bytes") is None and path is not None and "://" not in path
        source: Any = path if on_disk else io.BytesIO(_read(value))
        with _without_pillow_limit(), PIL.Image.open(source) as image:
            return _mode(image)
    except Exception:  # decoders raise any kind of error on damaged files
        return None


def _mode(image: PIL.Image.Image) -> str:
    if image.mode in _TRANSPARENT or ("transparency" in image.info and not image.mode.startswith("I")):
        return "RGBA"
    return "L" if image.mode in ("1", "L", "F") or image.mode.startswith("I") else "RGB"


def _read(value: dict[str, Any]) -> bytes:
    if value.get("bytes") is not None:
        return bytes(value["bytes"])
    path = value.get("path")
    if path is None:
        raise ValueError("there is no image")
    with open(path, "rb") if "://" not in path else fsspec.open(path) as file:
        content: bytes = file.read()
    return content


def _load(content: bytes, max_pixels: int) -> PIL.Image.Image:
    with _without_pillow_limit():
        try:
            image: PIL.Image.Image = PIL.Image.open(io.BytesIO(content))
        except PIL.UnidentifiedImageError:  # its message holds a memory address
            raise PIL.UnidentifiedImageError("cannot identify image file: not an image, or damaged") from None
        if image.width * image.height > max_pixels:
            _reduce(image, max_pixels)
        image.load()
    return image


def _reduce(image: PIL.Image.Image, max_pixels: int) -> None:
    """Set a JPEG to be decoded at a fraction of its size; no other format allows it."""
    width, height = image.size
    for divisor in (2, 4, 8):
        if image.format not in ("JPEG", "MPO"):
            break
        if -(-width // divisor) * -(-height // divisor) <= max_pixels:
            image.draft(image.mode, (width // divisor, height // divisor))
            return
    raise ValueError(f"{width}x{height} pixels, but `max_pixels` is {max_pixels}: shrink the image, or raise the limit")


@contextmanager
def _without_pillow_limit() -> Iterator[None]:
    """Disable Pillow's limit on pixels, which refuses a JPEG before it can be reduced."""
    limit = PIL.Image.MAX_IMAGE_PIXELS
    PIL.Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        PIL.Image.MAX_IMAGE_PIXELS = limit


def _transpose_by_exif(image: PIL.Image.Image) -> PIL.Image.Image:
    """Turn an image upright by its EXIF orientation; ignore damage to other EXIF fields."""
    try:
        orientation = image.getexif().get(PIL.ExifTags.Base.Orientation)
    except Exception:  # damaged metadata raise any kind of error
        return image
    method = _TRANSPOSES.get(orientation) if isinstance(orientation, int) else None
    if method is None:
        return image
    upright = image.transpose(method)
    upright.format = image.format
    return upright


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
