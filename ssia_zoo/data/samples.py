"""Read, decode and augment the images of a batch, in a DataLoader's worker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any, Protocol

import datasets
import PIL.Image
import torch
from torch.utils.data import Dataset

from ssia_zoo.data.config import MAX_PIXELS
from ssia_zoo.data.decode import decode_image
from ssia_zoo.data.label_lists import multi_label_target
from ssia_zoo.data.preprocessing import Transform
from ssia_zoo.data.randomness import derive_seed, isolate_rng, seed_everything
from ssia_zoo.data.unreadable import UnreadableImages
from ssia_zoo.errors import DataError, one_line

Label = int | torch.Tensor
"""Number of a class; for images with several labels, 0 or 1 for each class (float32)."""

Sample = tuple[torch.Tensor, Label, int] | tuple[torch.Tensor, Label, int, int]
"""Image, label and index; with `erases`, the seed of random erasing."""

VIEW_BITS = 32
"""Bits of the epoch in a stream's key; above them is the number of the view, with repeated augmentation."""

_ERASING = 1  # tells the seed of random erasing from that of the rest

NOT_COUNTED = -1
"""Label, or each of several, of an evaluation image that cannot be decoded."""


class UnreadableImageError(DataError):
    """No image of a batch can be decoded.

    DataLoader raises a worker's exception again with the traceback as its message, of which this keeps the last line.
    """

    def __init__(self, message: str) -> None:
        line = message.rstrip().rsplit("\n", 1)[-1]
        super().__init__(line.removeprefix(f"{__name__}.{type(self).__name__}: "))


@dataclass(frozen=True)
class EncodedSample:
    """An undecoded image with its label."""

    epoch: int
    index: int
    """Its row; in a stream, its place in the epoch."""
    value: dict[str, Any] | None
    """The image as the library datasets stores it, with "bytes" or "path"."""
    label: Label


class Reader(Protocol):
    """Reads undecoded images by the keys that a sampler yields."""

    max_pixels: int
    """Most pixels of an image to decode."""

    def __len__(self) -> int: ...

    def read(self, keys: Sequence[Any]) -> list[EncodedSample]:
        """Read the samples of these keys."""

    def name(self, sample: EncodedSample) -> str:
        """Name an image for a message, the same in each epoch."""

    def place(self, sample: EncodedSample) -> dict[str, int]:
        """Return epoch and place of an image, for `UnreadableImages.add`; nothing if its name tells it from others."""


class Pixels(Protocol):
    """Turns undecoded images into tensors."""

    def decode(self, value: dict[str, Any], max_pixels: int, seed: int) -> Any:
        """Decode an image, or the part that is needed, and seed the random numbers of its augmentation."""

    def augment(self, decoded: Any) -> torch.Tensor:
        """Turn what `decode` returns into a tensor."""


class PilPixels:
    """Decodes by Pillow and applies a transform of Pillow images.

    Args:
        transform: An image of any 8-bit mode to a tensor.
    """

    def __init__(self, transform: Transform) -> None:
        self.augment = transform

    def decode(self, value: dict[str, Any], max_pixels: int, seed: int) -> PIL.Image.Image:
        """Decode an image to 8 bits, and seed the random numbers."""
        image = decode_image(value, max_pixels)
        seed_everything(seed)
        return image


class RowReader:
    """Reads a split that has been loaded; keys are (epoch, index)."""

    def __init__(
        self, rows: datasets.Dataset, image_column: str, label_column: str, max_pixels: int = MAX_PIXELS
    ) -> None:
        self.rows = rows.cast_column(image_column, datasets.Image(decode=False))
        self.image_column = image_column
        self.label_column = label_column
        self.max_pixels = max_pixels
        self._target = multi_label_target(rows, label_column)

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, keys: Sequence[tuple[int, int]]) -> list[EncodedSample]:
        """Read the rows of these keys."""
        batch = self.rows[[index for _, index in keys]]
        values, labels = batch[self.image_column], batch[self.label_column]
        if self._target is not None:
            labels = [self._target(label) for label in labels]
        return [EncodedSample(*key, value, label) for key, value, label in zip(keys, values, labels, strict=True)]

    def name(self, sample: EncodedSample) -> str:
        """Name an image by its row in the full split, and its file if there is one."""
        selection = self.rows._indices
        row = sample.index if selection is None else selection.column(0)[sample.index].as_py()
        path = f" ({_path(sample)})" if _path(sample) else ""
        return f"row {row} of {str(self.rows.split or 'the data')!r}{path}"

    def place(self, sample: EncodedSample) -> dict[str, int]:
        """Return nothing: the name has the row."""
        return {}


class StreamReader:
    """Unpacks the keys of a stream: (epoch, place in the epoch, undecoded image and label)."""

    def __init__(self, length: int, max_pixels: int = MAX_PIXELS) -> None:
        self.length = length
        self.max_pixels = max_pixels

    def __len__(self) -> int:
        return self.length

    def read(self, keys: Sequence[tuple[int, int, dict[str, Any]]]) -> list[EncodedSample]:
        """Unpack these keys."""
        return [EncodedSample(epoch, place, row["image"], row["label"]) for epoch, place, row in keys]

    def name(self, sample: EncodedSample) -> str:
        """Name an image by its file and content; its place differs between epochs, and files may share a name."""
        encoded = (sample.value or {}).get("bytes")
        content = f"sha256 {sha256(encoded).hexdigest()[:16]}…" if encoded else ""
        path = _path(sample)
        if path:
            return f"{path}{f' ({content})' if content else ''} of the stream"
        return f"the image of {content} of the stream" if content else "an image without content of the stream"

    def place(self, sample: EncodedSample) -> dict[str, int]:
        """Return epoch and place."""
        return {"epoch": sample.epoch & (1 << VIEW_BITS) - 1, "place": sample.index}


class SampleDataset(Dataset[Sample]):
    """Decoded and transformed images of a split, read by the batch.

    An image that cannot be decoded, or is too narrow to be resized, is reported to `unreadable`. In training the next
    readable image of the batch replaces it, augmented by the random numbers of the place; in evaluation it becomes
    zeros with the label NOT_COUNTED.

    Args:
        reader: Reads the undecoded images.
        pixels: Decodes and augments them.
        sampler: Its seed is that of the augmentation.
        unreadable: Receives images that cannot be decoded.
        training: Whether to replace them.
        erases: Whether samples have a seed of random erasing, which is done on the training device.
    """

    def __init__(
        self,
        reader: Reader,
        pixels: Pixels,
        sampler: Any,
        unreadable: UnreadableImages,
        *,
        training: bool,
        erases: bool = False,
    ) -> None:
        self.reader = reader
        self.pixels = pixels
        self.sampler = sampler
        self.unreadable = unreadable
        self.training = training
        self.erases = erases

    def set_epoch(self, epoch: int) -> None:
        """Pass the epoch to the sampler, which Accelerate 1.15's skip_first_batches hides in several processes."""
        self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, key: Any) -> Sample:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[Any]) -> list[Sample]:
        encoded = self.reader.read(keys)
        with isolate_rng():
            samples = [self._load(image, image) for image in encoded]
            return self._replace_unreadable(samples, encoded) if None in samples else samples  # type: ignore[return-value]

    def _replace_unreadable(self, samples: list[Sample | None], encoded: Sequence[EncodedSample]) -> list[Sample]:
        if not self.training:
            blank = torch.zeros_like(self.pixels.augment(PIL.Image.new("RGB", (8, 8))))
            return [
                sample or (blank, _not_counted(image.label), image.index)
                for sample, image in zip(samples, encoded, strict=True)
            ]
        readable = [place for place, sample in enumerate(samples) if sample is not None]
        if not readable:
            raise no_readable_image(self.reader.name(encoded[0]))
        return [
            sample or self._load(encoded[replacement(place, readable)], encoded[place])  # type: ignore[misc]
            for place, sample in enumerate(samples)
        ]

    def _load(self, image: EncodedSample, place: EncodedSample) -> Sample | None:
        """Decode an image and augment it by the random numbers of a place in the batch; None if it is unreadable."""
        seed = derive_seed(self.sampler.seed, place.epoch, place.index)
        decode = partial(self.pixels.decode, seed=seed)
        decoded = decode_or_report(image, self.reader, self.unreadable, decode)
        if decoded is None:
            return None
        try:
            pixels = self.pixels.augment(decoded)
        except DataError as error:  # too narrow to be resized
            report(image, self.reader, self.unreadable, str(error).removeprefix("is "))
            return None
        if not self.erases:
            return pixels, image.label, image.index
        return pixels, image.label, image.index, derive_seed(self.sampler.seed, place.epoch, place.index, _ERASING) >> 1


def decode_or_report(
    sample: EncodedSample, reader: Reader, unreadable: UnreadableImages, decode: Callable[..., Any] | None = None
) -> Any:
    """Decode an image, to 8 bits by default; report one that cannot be decoded and return None."""
    try:
        if sample.value is None:
            raise ValueError("there is no image")
        return (decode or decode_image)(sample.value, reader.max_pixels)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise any kind of error on damaged files
        report(sample, reader, unreadable, one_line(error, 200))
        return None


def report(sample: EncodedSample, reader: Reader, unreadable: UnreadableImages, reason: str) -> None:
    """Report an image that cannot be used."""
    unreadable.add(reader.name(sample), reason, **reader.place(sample))


def replacement(place: int, readable: Sequence[int]) -> int:
    """Return the place in the batch whose image replaces an unreadable one: the next readable, else the first."""
    return next((other for other in readable if other > place), readable[0])


def no_readable_image(example: str) -> UnreadableImageError:
    """Build the error for a batch without any readable image."""
    return UnreadableImageError(f"no image of a batch can be read, such as {example}; repair or remove them")


def _not_counted(label: Label) -> Label:
    return NOT_COUNTED if isinstance(label, int) else torch.full_like(label, NOT_COUNTED)


def _path(sample: EncodedSample) -> str:
    return (sample.value or {}).get("path") or ""
