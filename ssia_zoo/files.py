"""Write files atomically."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a hidden temporary path to write to; rename it to `path` at the end, or delete it after an error.

    Raises:
        OSError: If the file cannot be renamed.
    """
    temporary = path.with_name(f".unfinished.{path.name}")  # its end tells writers the format
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
