"""Seeds of samples are the same on every machine and in every version."""

from __future__ import annotations

import random

import numpy as np
import torch

from ssia_zoo.data.randomness import derive_seed, isolate_rng, seed_everything


def test_seeds_never_change_and_depend_on_each_number_and_their_order() -> None:
    assert derive_seed(0) == 0xE220A8397B1DCDAF, "splitmix64's first number of the seed 0"
    seeds = {derive_seed(*numbers) for numbers in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0))}
    assert len(seeds) == 5


def test_the_generators_are_restored() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    seed_everything(1)
    expected = draw()
    seed_everything(1)
    with isolate_rng():
        seed_everything(2)
        assert draw() != expected
    assert draw() == expected
