"""What a worker does: it reads the images of a batch, decodes them, and augments each by randomness of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol

import datasets
import PIL.Image
import torch
from torch.utils.data import Dataset

from ssia_zoo.data.config import MAX_PIXELS
from ssia_zoo.data.decode import decode_rgb, global_randomness_kept, mix, seed_everything
from ssia_zoo.data.unreadable import UnreadableImages
from ssia_zoo.errors import DataError

Transform = Callable[[PIL.Image.Image], torch.Tensor]
Sample = tuple[torch.Tensor, int, int]
"""The image, its label and its index."""

NOT_COUNTED = -1
"""The label of an image to evaluate on that cannot be decoded."""


class UnreadableImageError(DataError):
    """No image of a batch can be decoded.

    DataLoader raises a worker's exception again with the worker's traceback as its message; its last line is ours.
    """

    def __init__(self, message: str) -> None:
        line = message.rstrip().rsplit("\n", 1)[-1]
        super().__init__(line.removeprefix(f"{__name__}.{type(self).__name__}: "))


@dataclass(frozen=True)
class Stored:
    """An image as it is stored."""

    epoch: int
    index: int
    """Its row, or its place in the epoch of a stream."""
    value: dict[str, Any] | None
    label: int


class Source(Protocol):
    """Where the stored images are."""

    max_pixels: int
    """Most pixels to decode of an image."""

    def __len__(self) -> int: ...

    def read(self, keys: Sequence[Any]) -> list[Stored]:
        """Reads what is stored of these keys of the sampler."""

    def name(self, image: Stored) -> str:
        """What to call an image in a message; the same in each epoch."""


class StoredRows:
    """A split that is at hand; its keys are (epoch, index) pairs."""

    def __init__(
        self, rows: datasets.Dataset, image_column: str, label_column: str, max_pixels: int = MAX_PIXELS
    ) -> None:
        self.rows = rows.cast_column(image_column, datasets.Image(decode=False))
        self.image_column = image_column
        self.label_column = label_column
        self.max_pixels = max_pixels

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, keys: Sequence[tuple[int, int]]) -> list[Stored]:
        """Reads what is stored of these keys of the sampler."""
        batch = self.rows[[index for _, index in keys]]
        values, labels = batch[self.image_column], batch[self.label_column]
        return [Stored(*key, value, label) for key, value, label in zip(keys, values, labels, strict=True)]

    def name(self, image: Stored) -> str:
        """Names its row in the whole split, and its file if there is one."""
        chosen = self.rows._indices  # of a selection, its rows in the whole
        row = image.index if chosen is None else chosen.column(0)[image.index].as_py()
        return f"row {row} of {str(self.rows.split or 'the data')!r}{f' ({_path(image)})' if _path(image) else ''}"


class StreamedRows:
    """A split that is streamed; its keys are (epoch, place, stored image and label)."""

    def __init__(self, length: int, max_pixels: int = MAX_PIXELS) -> None:
        self.length = length
        self.max_pixels = max_pixels

    def __len__(self) -> int:
        return self.length

    def read(self, keys: Sequence[tuple[int, int, dict[str, Any]]]) -> list[Stored]:
        """Takes what is stored out of these keys of the sampler."""
        return [Stored(epoch, place, row["image"], row["label"]) for epoch, place, row in keys]

    def name(self, image: Stored) -> str:
        """Names its file, or else its content: its place is another in each epoch."""
        content = sha256((image.value or {}).get("bytes") or b"").hexdigest()[:16]
        return f"{_path(image) or f'the image of sha256 {content}…'} of the stream"


class Samples(Dataset[Sample]):
    """The images of a split, a batch at once.

    An image that cannot be decoded is told to `unreadable`. In training its place is taken by the next image of the
    batch that can be, augmented by the randomness of the place; in evaluation it is blank, and NOT_COUNTED its label.
    """

    def __init__(
        self, source: Source, transform: Transform, sampler: Any, unreadable: UnreadableImages, *, training: bool
    ) -> None:
        self.source = source
        self.transform = transform
        self.sampler = sampler
        self.unreadable = unreadable
        self.training = training

    def set_epoch(self, epoch: int) -> None:
        """Tells the sampler: Accelerate 1.15's skip_first_batches on several processes hides it from set_epoch."""
        self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: Any) -> Sample:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[Any]) -> list[Sample]:
        stored = self.source.read(keys)
        with global_randomness_kept():
            samples = [self._sample(image, image) for image in stored]
            return self._filled(samples, stored) if None in samples else samples  # type: ignore[return-value]

    def _filled(self, samples: list[Sample | None], stored: Sequence[Stored]) -> list[Sample]:
        """Fills the places of images that cannot be decoded."""
        if not self.training:
            blank = torch.zeros_like(self.transform(PIL.Image.new("RGB", (8, 8))))
            return [sample or (blank, NOT_COUNTED, image.index) for sample, image in zip(samples, stored, strict=True)]
        whole = [place for place, sample in enumerate(samples) if sample is not None]
        if not whole:
            name = self.source.name(stored[0])
            raise UnreadableImageError(f"no image of a batch can be read, such as {name}; mend or remove them")
        filled = []
        for place, sample in enumerate(samples):
            filled.append(sample or self._sample(stored[neighbour(place, whole)], stored[place]))
        return filled  # type: ignore[return-value]  # a neighbour can be decoded

    def _sample(self, image: Stored, place: Stored) -> Sample | None:
        """An image, augmented by the randomness of a place in the batch; None if it cannot be decoded."""
        decoded = decode_or_tell(image, self.source, self.unreadable)
        if decoded is None:
            return None
        seed_everything(mix(self.sampler.seed, place.epoch, place.index))
        return self.transform(decoded), image.label, image.index


def decode_or_tell(image: Stored, source: Source, unreadable: UnreadableImages) -> PIL.Image.Image | None:
    """Decodes an image to 8-bit RGB; tells of one that cannot be, and gives None for it."""
    try:
        if image.value is None:
            raise ValueError("there is no image")
        return decode_rgb(image.value, source.max_pixels)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise whatever they like on damaged files
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        unreadable.add(source.name(image), reason)
        return None


def neighbour(place: int, whole: Sequence[int]) -> int:
    """The place of the batch whose image fills this one: the next that is whole, or the first."""
    return next((other for other in whole if other > place), whole[0])


def _path(image: Stored) -> str:
    return (image.value or {}).get("path") or ""
