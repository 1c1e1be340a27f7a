"""The sha256 of weight files, remembered: a file that was found good is not hashed again until it changes.

A file is taken for unchanged if its path, size, modification time and change time are the same to the nanosecond. What
is remembered is an empty file a weight in the user's cache; without a cache that can be written, files are hashed
again in each process. Whoever can write to that cache can forge it, but could change the installed code as well.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

from huggingface_hub import constants

_seen: set[str] = set()  # for a process whose cache cannot be written


def file_sha256(path: Path) -> str:
    """The sha256 of a file's content, in 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differing_sha256(path: Path, expected: str) -> str | None:
    """Compare a file with its expected sha256; reads it only if that exact file was not found good before.

    Args:
        path: An existing file.
        expected: 64 hexadecimal digits.

    Returns:
        None if the file has that sha256, else the one it has.
    """
    expected = expected.lower()
    before = _state(path, expected)
    if before in _seen or _remembered(before):
        return None
    actual = file_sha256(path)
    if actual != expected:
        return actual
    if _state(path, expected) == before:  # a file that changed while it was read is not remembered
        _remember(before)
    return None


def _state(path: Path, sha256: str) -> str:
    real = path.resolve()
    stat = real.stat()
    text = f"{real}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}\0{sha256}"
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def _marker(state: str) -> Path:
    return Path(constants.HF_HOME) / "ssia_zoo" / "verified" / state


def _remembered(state: str) -> bool:
    try:
        return _marker(state).is_file()
    except OSError:
        return False


def _remember(state: str) -> None:
    _seen.add(state)
    with suppress(OSError):  # a read-only or full cache costs a second hash in the next process, nothing else
        _marker(state).parent.mkdir(parents=True, exist_ok=True)
        _marker(state).touch()
