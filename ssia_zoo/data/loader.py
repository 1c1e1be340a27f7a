"""Build reproducible loaders of training and evaluation images.

The augmentation of a sample depends on (seed, epoch, index) alone, not on the number of workers, the batch, the process
or earlier draws: a run that is resumed, or continued with other workers, sees the same images.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import datasets
import torch
from torch.utils.data import DataLoader, default_collate

from ssia_zoo.data.cached import Batch, CachedDataset, identity_collate
from ssia_zoo.data.config import DataConfig
from ssia_zoo.data.images import EvalData, ImageData
from ssia_zoo.data.labels import read_labels
from ssia_zoo.data.samples import PilPixels, Pixels, RowReader, SampleDataset, StreamReader
from ssia_zoo.data.sampling import BalancedSampler, EpochSampler
from ssia_zoo.data.streaming import ImageStream, StreamSampler
from ssia_zoo.data.tensors import TensorPixels, report_path
from ssia_zoo.data.transforms import eval_transform, train_transform
from ssia_zoo.errors import DataError

_GRACE = 60
"""Seconds that a worker continues after SIGTERM."""


def train_loader(
    data: ImageData,
    config: DataConfig,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int,
    device: torch.device | None = None,
) -> DataLoader[Batch]:
    """Build the loader of shuffled, augmented batches; the last incomplete batch is dropped.

    A batch is images, labels (int64 N) and indices (int64 N), which are rows of `data.train`, or places in the epoch
    of a stream. `DeviceTransform` makes it the model's input: its images are uint8 NHWC, and with `random_erase` a list
    of seeds follows. With `pixels` pil or `cache_images`, the images are normalized float32 NCHW already. Set the
    epoch, 0 at first, by `loader.sampler.set_epoch`, or Accelerate's `set_epoch`.

    Args:
        data: Its `train` is loaded.
        config: Batch size, workers and augmentation.
        mean: Per channel, for pixels from 0 to 1.
        std: Per channel.
        seed: Of the order and the augmentation.
        device: Where to keep cached images and build their batches; the CPU if None.

    Raises:
        DataError: There are fewer images than a batch takes, or images to cache are not square.
    """
    if len(data.train) < config.batch_size:
        raise DataError(
            f"{len(data.train)} training images do not fill a batch of {config.batch_size}; lower `batch_size`"
        )
    repeats = config.aug_repeats
    sampler: EpochSampler | StreamSampler
    reader: RowReader | StreamReader
    if isinstance(data.train, ImageStream):
        reader, sampler = StreamReader(len(data.train), config.max_pixels), StreamSampler(data.train, seed, repeats)
    else:
        reader = _reader(data, data.train, config)
        if config.balanced_sampling:
            sampler = BalancedSampler(read_labels(data.train, data.label_column), seed, repeats)
        else:
            sampler = EpochSampler(len(data.train), seed, repeats=repeats)
        if config.cache_images:
            cached = CachedDataset(reader, config, mean, std, sampler, data.unreadable_train, device)
            return DataLoader(
                cached,
                config.batch_size,
                sampler=sampler,
                drop_last=True,
                collate_fn=identity_collate,
                generator=torch.Generator(),  # else iter(loader) draws from the global generator
            )
    pixels: Pixels
    if config.pixels == "tensor":
        pixels, erases = TensorPixels(config, mean, std), config.random_erase > 0
        report_path(pixels, config, reader)
    else:
        pixels, erases = PilPixels(train_transform(config, mean, std)), False
    samples = SampleDataset(reader, pixels, sampler, data.unreadable_train, training=True, erases=erases)
    return _loader(samples, config.batch_size, config.workers, training=True)


def eval_loader(
    data: EvalData,
    config: DataConfig,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    input_size: tuple[int, int, int] | None = None,
) -> DataLoader[tuple[torch.Tensor, torch.Tensor]]:
    """Build the loader of all evaluation images in order; the last batch may be smaller.

    A batch is images (float32 NCHW) and labels (int64 N); the label of an image that cannot be read is NOT_COUNTED.

    Args:
        data: Its `eval` is loaded.
        config: Batch size, workers, resize and crop.
        mean: Per channel, for pixels from 0 to 1.
        std: Per channel.
        input_size: Channels, height, width; those of `mean` and `config` if None.
    """
    sampler = EpochSampler(len(data.eval), seed=0, shuffle=False)
    reader, pixels = _reader(data, data.eval, config), PilPixels(eval_transform(config, mean, std, input_size))
    samples = SampleDataset(reader, pixels, sampler, data.unreadable_eval, training=False)
    return _loader(samples, config.eval_batch_size or config.batch_size, config.workers, training=False)


def _reader(data: EvalData, rows: datasets.Dataset, config: DataConfig) -> RowReader:
    return RowReader(rows, data.image_column, data.label_column, config.max_pixels)


def _loader(samples: SampleDataset, batch_size: int, workers: int, training: bool) -> DataLoader[Any]:
    return DataLoader(
        samples,
        batch_size,
        sampler=samples.sampler,
        drop_last=training,
        num_workers=workers,
        collate_fn=_collate_with_seeds if samples.erases else default_collate if training else _collate_without_indices,
        worker_init_fn=start_worker,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        generator=torch.Generator(),  # else iter(loader) draws from the global generator
    )


def _collate_with_seeds(
    samples: list[tuple[torch.Tensor, int, int, int]],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[int]]:
    images, labels, indices = default_collate([sample[:3] for sample in samples])
    return images, labels, indices, [seed for *_, seed in samples]  # a list stays on the CPU, where it is read


def _collate_without_indices(samples: list[tuple[torch.Tensor, int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels, _ = default_collate(samples)
    return images, labels


def start_worker(worker: int) -> None:
    """Leave stop signals to the main process, and be silent when it closes the connection that shares a batch.

    The main process needs a worker to finish its step, and ends it afterwards. If the main process fails to, the worker
    ends `_GRACE` seconds after SIGTERM.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(_GRACE))
    show = sys.excepthook

    # The thread of multiprocessing that shares batches calls it too.
    def show_other_errors(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not isinstance(error, ConnectionError | EOFError):
            show(kind, error, trace)

    sys.excepthook = show_other_errors
