"""Read training images as a stream: each process's share, its order and its length."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import datasets
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader, Sampler

from ssia_zoo.data.samples import VIEW_BITS
from ssia_zoo.errors import DataError, one_line

_log = logging.getLogger(__name__)
_READ_AHEAD = 64  # images

StreamedSample = tuple[int, int, dict[str, Any]]
"""Epoch, place in the epoch over all processes, and the undecoded image with its label."""


@dataclass(frozen=True)
class ImageStream:
    """A streamed training split of undecoded images with integer labels."""

    rows: datasets.IterableDataset
    image_column: str
    label_column: str
    num_classes: int
    length: int
    """Images per epoch."""
    shuffle_buffer: int
    """Images among which the next one is drawn; 0 keeps the stream's order."""
    identity: str = ""
    """What is known of the data without reading it, such as the names and sizes of its files."""
    labels_read: set[int] = field(default_factory=set)
    """Classes of the images that this process has read so far."""

    def __len__(self) -> int:
        return self.length


class StreamSampler(Sampler[StreamedSample]):
    """Reads this process's share of a stream, the same number of images in each process.

    It runs in the training process and hands undecoded images to the workers. So the number of workers and of files
    does not affect what is read or in which order, and batches are skipped without decoding. The library datasets
    shares out the stream: by files if their number is a multiple of the processes', else every n-th image. A process
    whose files end early begins them again.

    Args:
        stream: What to read.
        seed: Of the order.
        repeats: Views of each image, in a row, as for `EpochSampler`.
    """

    def __init__(self, stream: ImageStream, seed: int, repeats: int = 1) -> None:
        self.stream = stream
        self.seed = seed
        self.repeats = repeats
        self.epoch = 0
        self.start = 0
        """places of the epoch, of all processes, to leave out in later iterations"""
        self.process, self.processes = 0, 1

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of later iterations."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.stream.length // self.processes

    def __iter__(self) -> Iterator[StreamedSample]:
        return islice(self._views(self.epoch), self.start // self.processes, len(self))

    def _views(self, epoch: int) -> Iterator[StreamedSample]:
        images = -(-len(self) // self.repeats)
        with closing(_prefetch(islice(self._rows(epoch), images))) as rows:
            for place, row in enumerate(rows):
                for view in range(self.repeats):
                    yield epoch + (view << VIEW_BITS), place * self.processes + self.process, row

    def _rows(self, epoch: int) -> Iterator[dict[str, Any]]:
        rows = self.stream.rows
        if self.stream.shuffle_buffer:
            rows = rows.shuffle(seed=self.seed, buffer_size=self.stream.shuffle_buffer)
        rows = split_dataset_by_node(rows, self.process, self.processes)
        rows.set_epoch(epoch)  # also shuffles the order of the files
        read = 0
        while True:
            for row in _translate_errors(rows):
                yield self._check(row, read)
                read += 1
            if not read:
                raise DataError("the stream of training images is empty; choose another split or data set")
            _log.info("the stream of process %d ends after %d images and begins again", self.process, read)

    def _check(self, row: dict[str, Any], read: int) -> dict[str, Any]:
        """Return the image and its label, which is checked."""
        column, label = self.stream.label_column, row.get(self.stream.label_column)
        if column not in row:  # "json.label" is the field "label" of the column "json"
            column, field = column.split(".", 1)
            label = (row[column] or {}).get(field)
        if label is None or not 0 <= int(label) < self.stream.num_classes:
            path = (row[self.stream.image_column] or {}).get("path")
            raise DataError(
                f"training image {read} of the stream{f' ({path})' if path else ''} has the label {label}; expected 0 "
                f"to {self.stream.num_classes - 1}: label or remove it"
            )
        self.stream.labels_read.add(int(label))
        return {"image": row[self.stream.image_column], "label": int(label)}


def _translate_errors(rows: datasets.IterableDataset) -> Iterator[dict[str, Any]]:
    try:
        yield from rows
    except Exception as error:  # network, disk and file formats raise any kind of error
        raise DataError(
            f"the stream of training images broke off ({type(error).__name__}: {one_line(error, 300)}); check the "
            "files and the network, then continue from the last checkpoint with `resume` auto"
        ) from error


def _prefetch(rows: Iterator[dict[str, Any]]) -> Generator[dict[str, Any]]:
    """Read the next rows in a thread while the current ones are used."""
    with ThreadPoolExecutor(1) as executor:
        following = executor.submit(list, islice(rows, _READ_AHEAD))
        while current := following.result():
            following = executor.submit(list, islice(rows, _READ_AHEAD))
            yield from current


def share_loader(loader: DataLoader[Any], accelerator: Accelerator) -> Any:
    """Prepare a training loader by Accelerate: each process gets its share of the batches, on its device.

    A stream is shared out by its sampler, not by Accelerate.
    """
    if not isinstance(loader.sampler, StreamSampler):
        return accelerator.prepare(loader)
    loader.sampler.process, loader.sampler.processes = accelerator.process_index, accelerator.num_processes
    return prepare_data_loader(
        loader,
        accelerator.device,
        num_processes=1,
        process_index=0,
        put_on_device=True,
        non_blocking=accelerator.dataloader_config.non_blocking,
    )
