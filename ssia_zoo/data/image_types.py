"""Which files are images; training, prediction and export all use this list."""

from __future__ import annotations

import os
from functools import cache
from typing import IO

import PIL.Image

# Formats that Pillow registers but decodes only with another program or library.
_WITHOUT_DECODER = frozenset(("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"))
# Formats that Pillow opens under another name and recognizes by their content.
_OPENED_AS_ANOTHER = frozenset(("MPO",))
# Image formats that Pillow decodes only with a plugin, if at all.
FOREIGN_SUFFIXES = frozenset(
    (".heic", ".heif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw", ".exr", ".hdr", ".svg", ".eps", ".npy")
)


@cache
def image_suffixes() -> frozenset[str]:
    """Return the file suffixes, in lower case, that Pillow and its installed plugins can decode."""
    registered = set(PIL.Image.registered_extensions().items())
    return frozenset(
        suffix
        for suffix, form in registered
        if (form in PIL.Image.OPEN and form not in _WITHOUT_DECODER) or form in _OPENED_AS_ANOTHER
    )


def suffix_of(name: str) -> str:
    """Return the last suffix of a file name in lower case, such as ".jpg"; "" if it has none."""
    stem, dot, suffix = name.rpartition(".")
    return f".{suffix.lower()}" if dot and stem else ""


def is_image(file: str | IO[bytes]) -> bool:
    """Return whether Pillow can open a regular file, or a stream of bytes."""
    if isinstance(file, str) and not os.path.isfile(file):
        return False
    try:
        with PIL.Image.open(file):
            return True
    except Exception:  # decoders raise any kind of error on other content
        return False
