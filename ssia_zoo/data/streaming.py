"""Training images read as a stream, never all at hand: what each process gets, in which order, and how many."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any

import datasets
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader, Sampler

from ssia_zoo.errors import DataError

_log = logging.getLogger(__name__)
_READ_AHEAD = 64  # images

# Epoch, place in the epoch over all processes, and what is stored: the image and its label.
StreamedSample = tuple[int, int, dict[str, Any]]


@dataclass(frozen=True)
class ImageStream:
    """A training split that is read as it comes: its undecoded images and their labels, whole numbers."""

    rows: datasets.IterableDataset
    image_column: str
    label_column: str
    num_classes: int
    length: int
    """Images an epoch."""
    shuffle_buffer: int
    """Images among which the next one is drawn; 0 keeps the stream's order."""

    def __len__(self) -> int:
        return self.length


class StreamSampler(Sampler[StreamedSample]):
    """Reads this process's share of a stream, the same number of images in each process.

    It runs in the training process: workers get stored images to decode, whichever is free, as they get the indices
    of a data set at hand. So neither their number nor that of the files decides what is read or in which order, and
    skipping batches reads on without decoding. What a process gets is decided by `datasets`: files of its own if they
    can be shared out evenly, else one in so many images. A process whose files run out begins them again.
    """

    def __init__(self, stream: ImageStream, seed: int, repeats: int = 1) -> None:
        self.stream = stream
        self.seed = seed
        self.repeats = repeats  # as those of EpochSampler
        self.epoch = 0
        self.process, self.processes = 0, 1

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the iterations that begin from now on."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.stream.length // self.processes

    def __iter__(self) -> Iterator[StreamedSample]:
        return islice(self._views(self.epoch), len(self))

    def _views(self, epoch: int) -> Iterator[StreamedSample]:
        images = -(-len(self) // self.repeats)
        with closing(_read_ahead(islice(self._rows(epoch), images))) as rows:
            for place, row in enumerate(rows):
                for view in range(self.repeats):
                    yield epoch + (view << 32), place * self.processes + self.process, row

    def _rows(self, epoch: int) -> Iterator[dict[str, Any]]:
        rows = self.stream.rows
        if self.stream.shuffle_buffer:
            rows = rows.shuffle(seed=self.seed, buffer_size=self.stream.shuffle_buffer)
        rows = split_dataset_by_node(rows, self.process, self.processes)
        rows.set_epoch(epoch)  # which shuffles the order of the files, too
        read = 0
        while True:
            for row in _readable(rows):
                yield self._checked(row, read)
                read += 1
            if not read:
                raise DataError("the stream of training images is empty; choose another split or data set")
            _log.info("the stream of process %d ends after %d images and begins again", self.process, read)

    def _checked(self, row: dict[str, Any], read: int) -> dict[str, Any]:
        """The image as it is stored and its label, known to be one."""
        column, label = self.stream.label_column, row.get(self.stream.label_column)
        if column not in row:  # a part of a column
            column, part = column.split(".", 1)
            label = (row[column] or {}).get(part)
        if label is None or not 0 <= int(label) < self.stream.num_classes:
            path = (row[self.stream.image_column] or {}).get("path")
            raise DataError(
                f"training image {read} of the stream{f' ({path})' if path else ''} has the label {label}; expected 0 "
                f"to {self.stream.num_classes - 1}: label or remove it"
            )
        return {"image": row[self.stream.image_column], "label": int(label)}


def _readable(rows: datasets.IterableDataset) -> Iterator[dict[str, Any]]:
    try:
        yield from rows
    except Exception as error:  # of the network, the disk, or any of the formats
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"the stream of training images broke off ({type(error).__name__}: {reason}); check the files and the "
            "network; --resume auto continues from the last checkpoint"
        ) from error


def _read_ahead(rows: Iterator[dict[str, Any]]) -> Generator[dict[str, Any]]:
    """Reads the next rows in a thread while these are used, so that a slow disk or network holds up less."""
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(list, islice(rows, _READ_AHEAD))
        while here := coming.result():
            coming = reader.submit(list, islice(rows, _READ_AHEAD))
            yield from here


def share_loader(loader: DataLoader[Any], accelerator: Accelerator) -> Any:
    """Prepares a loader of training batches: each process gets its share of them, on its device.

    Accelerate shares out the batches of a data set that is at hand; a stream has been shared out before.
    """
    if not isinstance(loader.sampler, StreamSampler):
        return accelerator.prepare(loader)
    loader.sampler.process, loader.sampler.processes = accelerator.process_index, accelerator.num_processes
    return prepare_data_loader(loader, accelerator.device, num_processes=1, process_index=0, put_on_device=True)
