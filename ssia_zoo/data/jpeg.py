"""Decode JPEGs to arrays by simplejpeg, at a reduced size if asked; what it does not take is left to Pillow.

simplejpeg gives the pixels of Pillow (both use libjpeg-turbo) in less time. Pillow reads the header, so that formats,
modes and EXIF orientations are the same ones in both.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image

from ssia_zoo.data.decode import exif_orientation, is_jpeg, limit_divisor, pillow_limit

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

Pixels = npt.NDArray[np.uint8]
"""[height, width, channels]"""

JPEG_SIGNATURE = b"\xff\xd8"
_MODES = ("L", "RGB")
_TURNS = {  # by EXIF orientation: whether to exchange rows and columns, then to flip left to right, then top to bottom
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}


@dataclass(frozen=True)
class JpegHeader:
    """What the header of a JPEG states."""

    mode: str
    """Pillow's: L, RGB or CMYK."""
    width: int
    """As stored, before the EXIF orientation is applied."""
    height: int
    orientation: int

    @property
    def upright(self) -> tuple[int, int]:
        """Height and width of the upright image."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)

    def limit_divisor(self, content: bytes, max_pixels: int) -> int:
        """Return the divisor at which the image has at most `max_pixels`; raise a ValueError if there is none."""
        return limit_divisor(content, self.width, self.height, max_pixels)


def decoder_version() -> str | None:
    """Return the version of simplejpeg; None if it cannot be imported."""
    return None if simplejpeg is None else version("simplejpeg")


def read_header(content: bytes) -> JpegHeader | None:
    """Read the header of a JPEG; return None for other formats, and for a header that Pillow cannot read."""
    if not content.startswith(JPEG_SIGNATURE):
        return None
    try:
        with pillow_limit(None):
            image = PIL.Image.open(io.BytesIO(content))
    except Exception:  # Pillow raises any kind of error on damaged files
        return None
    if not is_jpeg(image):
        return None
    return JpegHeader(image.mode, *image.size, exif_orientation(image))


def decode_jpeg(content: bytes, header: JpegHeader, mode: str, divisor: int = 1) -> Pixels | None:
    """Decode a JPEG to upright pixels: a view of the decoded ones.

    Args:
        content: The file.
        header: Its header.
        mode: L for greyscale, else RGB; L only for a JPEG of that mode.
        divisor: Decode at this fraction of the size: 1, 2, 4 or 8.

    Returns:
        The pixels; None for JPEGs that Pillow has to decode (CMYK, truncated, damaged), and without simplejpeg.
    """
    if simplejpeg is None or header.mode not in _MODES:
        return None
    height, width = -(-header.height // divisor), -(-header.width // divisor)
    colours = "GRAY" if mode == "L" else "RGB"
    least: dict[str, Any] = {"min_height": height, "min_width": width} if divisor > 1 else {}
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(content, colours, **least)
    except ValueError:  # also for what libjpeg-turbo only warns of, as Pillow decides whether to accept that
        return None
    return _turn(pixels, header.orientation) if pixels.shape[:2] == (height, width) else None


def _turn(pixels: Pixels, orientation: int) -> Pixels:
    """Return a view of upright pixels."""
    exchange, mirror, flip = _TURNS.get(orientation, (False, False, False))
    pixels = pixels.swapaxes(0, 1) if exchange else pixels
    pixels = pixels[:, ::-1] if mirror else pixels
    return pixels[::-1] if flip else pixels
