"""One image at a time: decoding to RGB, the crop that is usual for CIFAR, and randomness that belongs to the sample."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import PIL.ExifTags
import PIL.Image
import torch

from ssia_zoo.data.config import MAX_PIXELS

_TURNS = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_OF_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf")
_MASK = 2**64 - 1


def decode_rgb(value: dict[str, Any], max_pixels: int = MAX_PIXELS) -> PIL.Image.Image:
    """Decode what `datasets` stores of an image ("bytes", "path") to 8-bit RGB, upright.

    Sixteen-bit grey is scaled to eight bits (Pillow would clip it), transparency is dropped as timm does. Metadata
    that cannot be read are passed over.

    Args:
        value: The image.
        max_pixels: Limit of its size; a larger JPEG is decoded at a half, a quarter or an eighth of it.

    Raises:
        Exception: Whatever the decoder raises on a damaged file; there is no common kind.
    """
    content = _content(value)
    try:
        image = _load(content, max_pixels)
    except Exception:
        bare = without_metadata(content) if isinstance(content, bytes) else None
        if bare is None:
            raise
        image = _load(bare, max_pixels)
    image = _upright(image)
    # Pillow reads 16-bit PGM as 32 bits, spread over the range of 16.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return PIL.Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"its mode {image.mode!r}, of 32-bit pixels, has no fixed range: store 8 or 16 bits")
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _content(value: dict[str, Any]) -> bytes:
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
        except PIL.UnidentifiedImageError:  # whose message has an address in memory
            raise PIL.UnidentifiedImageError("cannot identify image file: it is no image, or damaged") from None
        if image.width * image.height > max_pixels:
            _reduce(image, max_pixels)
        image.load()
    return image


def _reduce(image: PIL.Image.Image, max_pixels: int) -> None:
    """Have a JPEG decoded at a fraction of its size; nothing else can be."""
    width, height = image.size
    for divisor in (2, 4, 8):
        if image.format not in ("JPEG", "MPO"):
            break
        if -(-width // divisor) * -(-height // divisor) <= max_pixels:
            image.draft(image.mode, (width // divisor, height // divisor))
            return
    raise ValueError(
        f"its {width}x{height} pixels are more than max_pixels, {max_pixels}: make it smaller, or raise that"
    )


@contextmanager
def _without_pillow_limit() -> Iterator[None]:
    """Lift Pillow's own limit, which refuses a JPEG before it can be reduced."""
    before = PIL.Image.MAX_IMAGE_PIXELS
    PIL.Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        PIL.Image.MAX_IMAGE_PIXELS = before


def _upright(image: PIL.Image.Image) -> PIL.Image.Image:
    """Turn an image as its EXIF says; the rest of it does not matter, and may be damaged."""
    try:
        orientation = image.getexif().get(PIL.ExifTags.Base.Orientation)
    except Exception:  # of metadata that cannot be read
        return image
    method = _TURNS.get(orientation) if isinstance(orientation, int) else None
    if method is None:
        return image
    turned = image.transpose(method)
    turned.format = image.format
    return turned


def without_metadata(content: bytes) -> bytes | None:
    """Leave out the parts of a PNG that say nothing of its pixels; None of other formats, and where there are none."""
    if not content.startswith(_PNG):
        return None
    kept, place = [_PNG], len(_PNG)
    while place + 12 <= len(content):
        end = place + 12 + int.from_bytes(content[place : place + 4], "big")
        if content[place + 4 : place + 8] in _PNG_OF_PIXELS:
            kept.append(content[place:end])
        place = end
    bare = b"".join(kept)
    return bare if len(bare) < len(content) else None


class ReflectCrop:
    """Pads by reflection and crops a square at random, as torchvision's RandomCrop(padding_mode="reflect") does.

    It draws the same numbers and gives the same pixels, in a fraction of the time: it reads only what the crop keeps.
    """

    def __init__(self, size: int, padding: int) -> None:
        self.size = size
        self.padding = padding

    def __call__(self, image: PIL.Image.Image) -> PIL.Image.Image:
        """Takes an image whose sides are both at least `size` pixels."""
        rows, columns = reflected(image.height, self.padding), reflected(image.width, self.padding)
        top = int(torch.randint(0, len(rows) - self.size + 1, size=(1,)))
        left = int(torch.randint(0, len(columns) - self.size + 1, size=(1,)))
        kept = np.asarray(image)[rows[top : top + self.size]]
        return PIL.Image.fromarray(kept[:, columns[left : left + self.size]])


@lru_cache(maxsize=256)
def reflected(length: int, padding: int) -> npt.NDArray[np.int64]:
    """Which of `length` pixels stands at each place of a line that is padded by reflection at both ends."""
    return np.pad(np.arange(length), padding, mode="reflect")


def mix(*numbers: int) -> int:
    """Mixes whole numbers to 64 bits (splitmix64's finalizer, Steele et al. 2014): near inputs give unrelated seeds."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state


def seed_everything(seed: int) -> None:
    """Seeds the generators that timm's transforms draw from; takes 8 µs (torch.manual_seed alone takes 100)."""
    random.seed(seed)
    # NumPy and torch would draw alike from the same 32 bits: both are a Mersenne Twister.
    np.random.seed(seed >> 32)
    torch.default_generator.manual_seed(seed & 0xFFFFFFFF)


@contextmanager
def global_randomness_kept() -> Iterator[None]:
    """Leaves Python's, NumPy's and torch's (CPU) global generators as they were."""
    python, numpy, torches = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.default_generator.set_state(torches)
