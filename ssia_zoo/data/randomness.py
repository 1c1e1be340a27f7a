"""Random numbers of a sample: they depend on its seed, epoch and index alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_MASK = 2**64 - 1


def derive_seed(*numbers: int) -> int:
    """Hash integers to a 64-bit seed; similar inputs give unrelated seeds.

    Each integer is mixed in by the finalizer of splitmix64 (Steele et al., "Fast Splittable Pseudorandom Number
    Generators", 2014).
    """
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch (CPU), from which timm's transforms draw.

    This takes 8 µs, `torch.manual_seed` alone 100.
    """
    random.seed(seed)
    # NumPy and torch get different bits: both are a Mersenne Twister and would draw the same numbers.
    np.random.seed(seed >> 32)
    torch.default_generator.manual_seed(seed & 0xFFFFFFFF)


@contextmanager
def isolate_rng() -> Iterator[None]:
    """Restore the global generators of Python, NumPy and torch (CPU) on exit."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    torch_state = torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.default_generator.set_state(torch_state)
