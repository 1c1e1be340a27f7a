"""Parts of log messages and errors about data, and which process logs them."""

from __future__ import annotations

import os
from collections.abc import Sequence

_SHOWN = 3


def printable(path: str) -> str:
    """Return a path as printable text; bytes that are not UTF-8 become escapes, which stay different."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def abbreviate(names: Sequence[str], shown: int = _SHOWN) -> str:
    """Join the first names of a list by commas."""
    return ", ".join(names[:shown]) + (", …" if len(names) > shown else "")


def is_main_process() -> bool:
    """Return whether this process has rank 0, before there is a process group to ask."""
    return os.environ.get("RANK", "0") == "0"
