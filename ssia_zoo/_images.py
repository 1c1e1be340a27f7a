"""One image at a time: decoding to RGB, the crop that is usual for CIFAR, and randomness that belongs to the sample."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import PIL.Image
import torch

_IMAGE = datasets.Image()
_MASK = 2**64 - 1


def decode_rgb(value: dict[str, Any]) -> PIL.Image.Image:
    """Decodes what `datasets` stores of an image ("bytes", "path") to 8-bit RGB, upright.

    Sixteen-bit grey is scaled to eight bits (Pillow would clip it), transparency is dropped as timm does.

    Raises:
        Exception: Whatever the decoder raises on a damaged file; there is no common kind.
    """
    image: PIL.Image.Image = _IMAGE.decode_example(value)  # turns it as EXIF says
    # Pillow reads 16-bit PGM as 32 bits, spread over the range of 16.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return PIL.Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"its mode {image.mode!r}, of 32-bit pixels, has no fixed range: store 8 or 16 bits")
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


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
