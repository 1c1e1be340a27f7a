"""Decode the training images once, keep them on the training device, and augment whole batches there."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor
from torch.utils.data import Dataset, default_collate
from tqdm import tqdm

from ssia_zoo.data.config import DataConfig
from ssia_zoo.data.preprocessing import ConvertMode
from ssia_zoo.data.randomness import derive_seed
from ssia_zoo.data.samples import Label, RowReader, decode_or_report, no_readable_image, replacement
from ssia_zoo.data.transforms import reflected_indices, resize_transform, train_height_width
from ssia_zoo.data.unreadable import UnreadableImages
from ssia_zoo.errors import DataError

_log = logging.getLogger(__name__)

Batch = tuple[Tensor, Tensor, Tensor]
"""Images [B, C, H, W], labels [B] (or [B, classes]) and indices [B]."""

_CHUNK = 1000  # images per read


class CachedDataset(Dataset[Batch]):
    """All images of a split on one device, 8 bits a channel; an item is a whole batch.

    The batches equal those of `SampleDataset` with `ReflectCrop`, a horizontal flip and normalization: the same random
    numbers at each place of a batch, and the same arithmetic on its pixels.

    Args:
        reader: Reads the undecoded images.
        config: Size, padding and probability of a flip.
        mean: Per channel, for pixels from 0 to 1.
        std: Per channel.
        sampler: Its seed is that of the augmentation.
        unreadable: Receives images that cannot be decoded.
        device: Where to keep the images, a byte a pixel and channel; the CPU if None.

    Raises:
        DataError: An image does not have the input's aspect ratio.
    """

    def __init__(
        self,
        reader: RowReader,
        config: DataConfig,
        mean: Sequence[float],
        std: Sequence[float],
        sampler: Any,
        unreadable: UnreadableImages,
        device: torch.device | None,
    ) -> None:
        self.height, self.width = train_height_width(config)
        self.convert, self.channels = ConvertMode(len(mean)), len(mean)
        self.hflip = config.hflip
        self.sampler = sampler
        self.offsets = 2 * config.crop_padding + 1
        self.unreadable_name = ""
        images, labels, self.readable = self._decode(reader, config, unreadable)
        self.images, self.labels = images.to(device), labels.to(device)
        self.reflected_rows = torch.from_numpy(reflected_indices(self.height, config.crop_padding)).to(device)
        self.reflected_columns = torch.from_numpy(reflected_indices(self.width, config.crop_padding)).to(device)
        self.rows, self.columns = torch.arange(self.height, device=device), torch.arange(self.width, device=device)
        self.mean, self.std = torch.tensor(mean, device=device), torch.tensor(std, device=device)

    def _decode(
        self, reader: RowReader, config: DataConfig, unreadable: UnreadableImages
    ) -> tuple[Tensor, Tensor, list[bool]]:
        """Return all images [N, H, W, C] and labels [N] or [N, classes], and which of the images could be decoded."""
        count, resize = len(reader), resize_transform(config)
        images = torch.zeros(count, self.height, self.width, self.channels, dtype=torch.uint8)
        _log.info("decoding %d training images into %.1f MB of memory", count, images.nbytes / 1e6)
        labels: list[Label] = []
        readable = [True] * count
        hidden = None if PartialState().is_main_process else True  # None: hidden where stderr is not a terminal
        for start in tqdm(
            range(0, count, _CHUNK), "decoding", unit="images", unit_scale=_CHUNK, leave=False, disable=hidden
        ):
            for sample in reader.read([(0, index) for index in range(start, min(count, start + _CHUNK))]):
                labels.append(sample.label)
                image = decode_or_report(sample, reader, unreadable)
                if image is None:
                    readable[sample.index] = False
                    self.unreadable_name = reader.name(sample)
                    continue
                try:
                    resized = resize(self.convert(image))
                except DataError as error:
                    raise DataError(f"{reader.name(sample)} {error}") from error
                if resized.size != (self.width, self.height):
                    shape = "square images" if self.height == self.width else "images of the input's aspect ratio"
                    raise DataError(
                        f"{reader.name(sample)} has {image.width}x{image.height} pixels, but `cache_images` needs "
                        f"{shape}; leave it out"
                    )
                images[sample.index] = torch.from_numpy(np.asarray(resized).copy()).reshape(images.shape[1:])
        return images, default_collate(labels), readable

    def set_epoch(self, epoch: int) -> None:
        """Pass the epoch to the sampler, as `SampleDataset` does."""
        self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        images, labels, indices = self.__getitems__([key])
        return images[0], labels[0], indices[0]

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> Batch:
        """Return a batch on the device, its images normalized float32."""
        drawn = torch.tensor([self._draw(*key) for key in keys]).T
        sources = torch.tensor(self._replace_unreadable([index for _, index in keys]))
        top, left, flipped, indices = torch.cat([drawn, sources[None]]).to(self.images.device, non_blocking=True)
        rows = self.reflected_rows[top[:, None] + self.rows]
        places = torch.where(flipped[:, None] == 1, self.columns.flip(0), self.columns)
        columns = self.reflected_columns[left[:, None] + places]
        pixels = self.images[indices[:, None, None], rows[:, :, None], columns[:, None, :]]
        normalized = pixels.float().div_(255).sub_(self.mean).div_(self.std)
        return normalized.permute(0, 3, 1, 2).contiguous(), self.labels[indices], indices

    def _draw(self, epoch: int, index: int) -> tuple[int, int, int]:
        """Draw the crop's first row and column and whether to flip it, in the order of the transforms."""
        generator = torch.Generator().manual_seed(derive_seed(self.sampler.seed, epoch, index) & 0xFFFFFFFF)
        top, left = (int(torch.randint(0, self.offsets, size=(1,), generator=generator)) for _ in range(2))
        return top, left, int(self.hflip > 0 and bool(torch.rand(1, generator=generator) < self.hflip))

    def _replace_unreadable(self, indices: list[int]) -> list[int]:
        readable = [place for place, index in enumerate(indices) if self.readable[index]]
        if not readable:
            raise no_readable_image(self.unreadable_name)
        return [
            index if self.readable[index] else indices[replacement(place, readable)]
            for place, index in enumerate(indices)
        ]


def identity_collate(batch: Any) -> Any:
    """Return a batch as it is."""
    return batch
