"""Keep freed memory in the process, which makes PyTorch on Linux CPUs faster."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h."""


def keep_freed_memory() -> bool:
    """Make glibc's `malloc` reuse freed blocks of any size instead of returning them to the kernel; for commands.

    By default glibc maps each block above some megabytes anew and unmaps it when it is freed, so that the kernel clears
    the pages of every feature map in every step. Blocks of 2 GiB and more are still mapped. The process keeps its peak
    memory until it ends. `benchmarks/allocator.py` measures what is gained.

    Returns:
        Whether it is done: False without glibc (macOS, Windows, Alpine), where nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_TRIM_THRESHOLD, -1)) and bool(mallopt(_MMAP_THRESHOLD, 2**31 - 1))
