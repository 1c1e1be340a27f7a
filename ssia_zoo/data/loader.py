"""From the name of a data set to reproducible loaders: `datasets` reads, timm transforms, torch's DataLoader batches.

What augmentation does to a sample depends on (seed, epoch, sample index) alone: not on the number of workers, the batch
it is in, the process, or anything drawn before. So a run that is resumed, or spread otherwise, sees the same images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import datasets
import torch
from torch.utils.data import DataLoader, Sampler, default_collate

from ssia_zoo.data.cached import CachedSamples, whole_batch
from ssia_zoo.data.config import DataConfig
from ssia_zoo.data.decode import mix
from ssia_zoo.data.images import EvalData, ImageData
from ssia_zoo.data.samples import Samples, StoredRows, StreamedRows
from ssia_zoo.data.streaming import ImageStream, StreamSampler
from ssia_zoo.data.transforms import eval_transform, train_transform
from ssia_zoo.data.messages import outlive_stop_signals
from ssia_zoo.errors import DataError

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def train_loader(
    data: ImageData,
    config: DataConfig,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int,
    device: torch.device | None = None,
) -> DataLoader[Batch]:
    """Makes the loader of shuffled, augmented batches; a last part batch is left out.

    A batch is (images, float32 NCHW; labels, int64 N; indices, int64 N): each image's row in `data.train`, or in a
    stream its place in the epoch.

    The epoch is 0 until `loader.sampler.set_epoch` says otherwise; Accelerate's `set_epoch` arrives there too. `device`
    is where cached images are kept, and their batches made; the CPU if None.

    Raises:
        DataError: There are fewer images than a batch takes, or images to cache are not square.
    """
    if len(data.train) < config.batch_size:
        raise DataError(
            f"{len(data.train)} images to train on do not fill a batch of {config.batch_size}; lower --batch-size"
        )
    repeats = config.aug_repeats
    sampler: EpochSampler | StreamSampler
    source: StoredRows | StreamedRows
    if isinstance(data.train, ImageStream):
        source, sampler = StreamedRows(len(data.train), config.max_pixels), StreamSampler(data.train, seed, repeats)
    else:
        source, sampler = _rows(data, data.train, config), EpochSampler(len(data.train), seed, repeats=repeats)
        if config.cache_images:
            cached = CachedSamples(source, config, mean, std, sampler, data.unreadable_train, device)
            return DataLoader(
                cached,
                config.batch_size,
                sampler=sampler,
                drop_last=True,
                collate_fn=whole_batch,
                generator=torch.Generator(),  # or iter(loader) would draw from the global one
            )
    samples = Samples(source, train_transform(config, mean, std), sampler, data.unreadable_train, training=True)
    return _loader(samples, config.batch_size, config.workers, training=True)


def eval_loader(
    data: EvalData,
    config: DataConfig,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    input_size: tuple[int, int, int] | None = None,
) -> DataLoader[tuple[torch.Tensor, torch.Tensor]]:
    """Makes the loader of all images to evaluate on, in order: (float32 NCHW, int64 N); the last batch may be short.

    The label of an image that cannot be read is NOT_COUNTED. `input_size` (channels, height, width) replaces the
    square RGB input of `config.image_size`.
    """
    sampler = EpochSampler(len(data.eval), seed=0, shuffle=False)
    source, transform = _rows(data, data.eval, config), eval_transform(config, mean, std, input_size)
    samples = Samples(source, transform, sampler, data.unreadable_eval, training=False)
    return _loader(samples, config.eval_batch_size or config.batch_size, config.workers, training=False)


class EpochSampler(Sampler[tuple[int, int]]):
    """Gives (epoch, index) pairs, in an order that depends on the seed and the epoch alone.

    The pair tells a worker the epoch; workers that outlive an epoch need no other news of it. With `repeats`, so many
    views of an image follow one another, each augmented as if it were of another epoch, far away.
    """

    def __init__(self, length: int, seed: int, shuffle: bool = True, repeats: int = 1) -> None:
        self.length = length
        self.seed = seed
        self.shuffle = shuffle
        self.repeats = repeats
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the iterations that begin from now on."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        order: Sequence[int] = range(self.length)
        if self.shuffle:
            generator = torch.Generator().manual_seed(mix(self.seed, epoch) >> 1)
            order = torch.randperm(self.length, generator=generator).tolist()
        for place in range(self.length):
            yield epoch + (place % self.repeats << 32), order[place // self.repeats]


def _rows(data: EvalData, rows: datasets.Dataset, config: DataConfig) -> StoredRows:
    return StoredRows(rows, data.image_column, data.label_column, config.max_pixels)


def _loader(samples: Samples, batch_size: int, workers: int, training: bool) -> DataLoader[Any]:
    return DataLoader(
        samples,
        batch_size,
        sampler=samples.sampler,
        drop_last=training,
        num_workers=workers,
        collate_fn=default_collate if training else _without_indices,
        worker_init_fn=outlive_stop_signals,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        generator=torch.Generator(),  # or iter(loader) would draw from the global one
    )


def _without_indices(samples: list[tuple[torch.Tensor, int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels, _ = default_collate(samples)
    return images, labels
