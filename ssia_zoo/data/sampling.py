"""The order of images in an epoch, which depends on the seed and the epoch alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import Sampler

from ssia_zoo.data.randomness import derive_seed


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index) pairs in an order that depends on the seed and the epoch alone.

    The pair carries the epoch to persistent workers.

    Args:
        length: Number of images.
        seed: Of the order.
        shuffle: Whether to shuffle the images.
        repeats: Views of each image, in a row; each has another epoch number, so that it is augmented differently.
    """

    def __init__(self, length: int, seed: int, shuffle: bool = True, repeats: int = 1) -> None:
        self.length = length
        self.seed = seed
        self.shuffle = shuffle
        self.repeats = repeats
        self.epoch = 0
        self.start = 0
        """places of the epoch to leave out in later iterations, as they are done"""

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of later iterations."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the number of places of an epoch, from its first one."""
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        order = self._order(epoch)
        for place in range(self.start, self.length):
            yield epoch + (place % self.repeats << 32), order[place // self.repeats]

    def _order(self, epoch: int) -> Sequence[int]:
        """Return the images of an epoch, each once, at least as many as it has places for."""
        if not self.shuffle:
            return range(self.length)
        order: list[int] = torch.randperm(self.length, generator=self._generator(epoch)).tolist()
        return order

    def _generator(self, epoch: int) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(self.seed, epoch) >> 1)


class BalancedSampler(EpochSampler):
    """Draws every class equally often, to within one image an epoch; classes without images are left out.

    A class with more images than its share gives others each epoch, each at most once. A class with fewer gives each of
    them equally often, to within one; every draw of an image in an epoch has another epoch number, so that it is
    augmented differently.

    Args:
        labels: Class of each image.
        seed: Of the draws.
        repeats: Views of each draw, in a row.
    """

    def __init__(self, labels: Sequence[int], seed: int, repeats: int = 1) -> None:
        super().__init__(len(labels), seed, repeats=repeats)
        classes = torch.tensor(labels)
        counts = classes.bincount()
        self.members = torch.split(classes.argsort(stable=True), counts[counts > 0].tolist())

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        drawn: Counter[int] = Counter()
        order = self._order(epoch)
        for place in range(self.length):
            index = order[place // self.repeats]
            if place >= self.start:
                yield epoch + (drawn[index] << 32), index
            drawn[index] += 1

    def _order(self, epoch: int) -> Sequence[int]:
        generator, classes = self._generator(epoch), len(self.members)
        share, rest = divmod(-(-self.length // self.repeats), classes)
        shares = [share] * classes
        for number in torch.randperm(classes, generator=generator)[:rest].tolist():
            shares[number] += 1
        order = torch.cat([_draw(rows, count, generator) for rows, count in zip(self.members, shares, strict=True)])
        shuffled: list[int] = order[torch.randperm(len(order), generator=generator)].tolist()
        return shuffled


def _draw(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw from rows without replacement, again from all of them when none is left."""
    rounds = max(1, -(-count // len(rows)))
    return torch.cat([rows[torch.randperm(len(rows), generator=generator)] for _ in range(rounds)])[:count]
