"""Training images decoded once, kept on the training device, and cropped, flipped and normalized there by the batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import PartialState
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from ssia_zoo.data.decode import mix, reflected
from ssia_zoo.data.samples import StoredRows, UnreadableImageError, decode_or_tell, neighbour
from ssia_zoo.data.transforms import resize, side
from ssia_zoo.data.unreadable import UnreadableImages
from ssia_zoo.errors import DataError

if TYPE_CHECKING:
    from ssia_zoo.data.config import DataConfig

_log = logging.getLogger(__name__)

Batch = tuple[Tensor, Tensor, Tensor]

_CHUNK = 1000  # images decoded between two reads


class CachedSamples(Dataset[Batch]):
    """The images of a split, on one device as 8-bit RGB.

    What comes out is what `Samples` gives with `ReflectCrop`, a horizontal flip and normalization: each place of a
    batch draws the same numbers, and its pixels go through the same arithmetic.

    Args:
        source: Where the stored images are.
        config: Size, padding, flips.
        mean: Per channel, of pixels from 0 to 1.
        std: Per channel.
        sampler: Its seed is what augmentation depends on.
        unreadable: Told of images that cannot be decoded.
        device: Where the images are kept, 3 bytes a pixel; the CPU if None.

    Raises:
        DataError: An image is not square.
    """

    def __init__(
        self,
        source: StoredRows,
        config: DataConfig,
        mean: Sequence[float],
        std: Sequence[float],
        sampler: Any,
        unreadable: UnreadableImages,
        device: torch.device | None,
    ) -> None:
        self.size = side(config)
        self.hflip = config.hflip
        self.sampler = sampler
        self.unreadable = unreadable
        self.offsets = 2 * config.crop_padding + 1
        self.name_of_unreadable = ""
        images, labels, self.whole = self._decode(source, resize(config))
        self.images, self.labels = images.to(device), labels.to(device)
        self.reflected = torch.from_numpy(reflected(self.size, config.crop_padding)).to(device)
        self.places = torch.arange(self.size, device=device)
        self.mean, self.std = torch.tensor(mean, device=device), torch.tensor(std, device=device)

    def _decode(self, source: StoredRows, resized: Callable[[Image], Image]) -> tuple[Tensor, Tensor, list[bool]]:
        """All images [N, size, size, 3] and labels [N]; and of which images there is more than a blank."""
        count = len(source)
        _log.info("decoding %d training images, to keep them as %.1f MB", count, count * 3 * self.size**2 / 1e6)
        images = torch.zeros(count, self.size, self.size, 3, dtype=torch.uint8)
        labels = torch.zeros(count, dtype=torch.int64)
        whole = [True] * count
        starts = range(0, count, _CHUNK)
        for start in tqdm(starts, "decoding", unit="images", unit_scale=_CHUNK, leave=False, disable=_silent()):
            for stored in source.read([(0, index) for index in range(start, min(count, start + _CHUNK))]):
                labels[stored.index] = stored.label
                image = decode_or_tell(stored, source, self.unreadable)
                if image is None:
                    whole[stored.index] = False
                    self.name_of_unreadable = source.name(stored)
                    continue
                if image.width != image.height:
                    raise DataError(
                        f"{source.name(stored)} has {image.width}x{image.height} pixels, but --cache-images takes "
                        "square images alone; leave it out"
                    )
                images[stored.index] = torch.from_numpy(np.asarray(resized(image)).copy())
        return images, labels, whole

    def set_epoch(self, epoch: int) -> None:
        """Tells the sampler, as `Samples` does."""
        self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        images, labels, indices = self.__getitems__([key])
        return images[0], labels[0], indices[0]

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> Batch:
        """A batch: images [B, 3, size, size], normalized float32, labels [B] and indices [B], on the device."""
        drawn = torch.tensor([self._draw(*key) for key in keys]).T
        shown = torch.tensor(self._shown([index for _, index in keys]))
        top, left, flipped, indices = torch.cat([drawn, shown[None]]).to(self.images.device, non_blocking=True)
        rows = self.reflected[top[:, None] + self.places]
        across = torch.where(flipped[:, None] == 1, self.places.flip(0), self.places)
        columns = self.reflected[left[:, None] + across]
        pixels = self.images[indices[:, None, None], rows[:, :, None], columns[:, None, :]]
        normalized = pixels.float().div_(255).sub_(self.mean).div_(self.std)
        return normalized.permute(0, 3, 1, 2).contiguous(), self.labels[indices], indices

    def _draw(self, epoch: int, index: int) -> tuple[int, int, int]:
        """Row and column at which the crop begins, and whether it is flipped: what the transforms would draw."""
        generator = torch.Generator().manual_seed(mix(self.sampler.seed, epoch, index) & 0xFFFFFFFF)
        top, left = (int(torch.randint(0, self.offsets, size=(1,), generator=generator)) for _ in range(2))
        return top, left, int(self.hflip > 0 and bool(torch.rand(1, generator=generator) < self.hflip))

    def _shown(self, indices: list[int]) -> list[int]:
        """Which image fills each place of a batch: its own, or a neighbour's if it cannot be decoded."""
        whole = [place for place, index in enumerate(indices) if self.whole[index]]
        if not whole:
            raise UnreadableImageError(
                f"no image of a batch can be read, such as {self.name_of_unreadable}; mend or remove them"
            )
        return [index if self.whole[index] else indices[neighbour(place, whole)] for place, index in enumerate(indices)]


def _silent() -> bool | None:
    """Whether this process shows no progress: others than the main one never do, that on a terminal alone."""
    return None if PartialState().is_main_process else True


def whole_batch(batch: Any) -> Any:
    """Collates what is a batch already."""
    return batch
