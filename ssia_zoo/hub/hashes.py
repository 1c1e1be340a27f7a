"""Compute sha256 of weight files, and remember which files had the expected one.

A verified file is not hashed again while its path, size, modification time and change time (in nanoseconds) stay the
same. Each record is an empty file in the user's cache; if the cache is not writable, each process hashes again. Whoever
can write to the cache can forge records, but could change the installed code as well.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

from huggingface_hub import constants

_verified: set[str] = set()  # for this process, in case the cache is not writable


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's content, as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differing_sha256(path: Path, expected: str) -> str | None:
    """Compare a file with its expected sha256; hash it only if it has not been verified since it last changed.

    Args:
        path: An existing file.
        expected: 64 hexadecimal digits.

    Returns:
        None if the sha256 is the expected one, else the actual one.
    """
    expected = expected.lower()
    before = _state(path, expected)
    if before in _verified or _is_recorded(before):
        return None
    actual = file_sha256(path)
    if actual != expected:
        return actual
    if _state(path, expected) == before:  # do not record a file that changed while it was read
        _record(before)
    return None


def _state(path: Path, sha256: str) -> str:
    real = path.resolve()
    stat = real.stat()
    text = f"{real}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}\0{sha256}"
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def _record_path(state: str) -> Path:
    return Path(constants.HF_HOME) / "ssia_zoo" / "verified" / state


def _is_recorded(state: str) -> bool:
    try:
        return _record_path(state).is_file()
    except OSError:
        return False


def _record(state: str) -> None:
    _verified.add(state)
    with suppress(OSError):  # with a read-only or full cache, the next process hashes again
        _record_path(state).parent.mkdir(parents=True, exist_ok=True)
        _record_path(state).touch()
