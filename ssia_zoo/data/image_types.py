"""Which files are images: the one list that training, prediction and export go by."""

from __future__ import annotations

from functools import cache

import PIL.Image

# Formats that Pillow registers but has no decoder of its own for (it needs another program or library).
_WITHOUT_DECODER = frozenset(("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"))
# Formats that Pillow opens as another one, which it detects by the content.
_OPENED_AS_ANOTHER = frozenset(("MPO",))
# Images that Pillow decodes only with a plugin, if at all.
FOREIGN_SUFFIXES = frozenset(
    (".heic", ".heif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw", ".exr", ".hdr", ".svg", ".eps", ".npy")
)


@cache
def image_suffixes() -> frozenset[str]:
    """List the suffixes, in lower case, of the files that Pillow can decode here, plugins included."""
    readable = set(PIL.Image.registered_extensions().items())
    return frozenset(
        suffix
        for suffix, form in readable
        if (form in PIL.Image.OPEN and form not in _WITHOUT_DECODER) or form in _OPENED_AS_ANOTHER
    )


def suffix_of(name: str) -> str:
    """The last suffix of a file's name in lower case, such as ".jpg"; "" if it has none."""
    stem, dot, suffix = name.rpartition(".")
    return f".{suffix.lower()}" if dot and stem else ""
