"""Images in files of their own: the rows of a split, and the base class of the sources that list such files."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import datasets
import pyarrow as pa

from ssia_zoo.data.columns import Rows
from ssia_zoo.data.encoded import split_digest

_MAX_SHARDS = 1024


@dataclass(frozen=True)
class ImageFiles:
    """The images of one split, with one label each, or a list of labels each."""

    paths: list[str]
    labels: list[int] | list[list[int]]
    class_names: list[str]
    resolved: list[str]
    """The paths with links resolved."""
    image_column: str = "image"
    label_column: str = "label"
    several: bool = False
    """Whether an image has a list of labels."""

    def rows(self, split: str) -> datasets.Dataset:
        """Build a data set that reads a file when it is decoded."""
        label: Any = datasets.ClassLabel(names=self.class_names)
        images = pa.StructArray.from_arrays(
            [pa.nulls(len(self.paths), pa.binary()), pa.array(self.paths)], ["bytes", "path"]
        )
        labels = pa.array(self.labels, pa.list_(pa.int64()) if self.several else pa.int64())
        table = pa.table({self.image_column: images, self.label_column: labels})
        features = {
            self.image_column: datasets.Image(),
            self.label_column: datasets.List(label) if self.several else label,
        }
        info = datasets.DatasetInfo(features=datasets.Features(features))
        digest = sha256("\0".join([*self.paths, *self.class_names, *map(str, self.labels)]).encode()).hexdigest()
        name = datasets.NamedSplit(re.sub(r"\W", "_", split))
        return datasets.Dataset(table, info, split=name, fingerprint=digest[:16])


class ImageFilesSource(ABC):
    """A data set of image files."""

    @property
    @abstractmethod
    def has_splits(self) -> bool:
        """Whether there are splits; otherwise all images are one split."""

    @abstractmethod
    def splits(self) -> list[str]:
        """Return the names of the splits."""

    @abstractmethod
    def find(self, name: str) -> str:
        """Return the split that a name from the settings means."""

    @abstractmethod
    def files(self, split: str) -> ImageFiles:
        """List the images of a split."""

    @abstractmethod
    def skipped(self) -> str:
        """Describe what is not used, with reasons; "" if there is nothing."""

    def load(self, split: str, *, streaming: bool = False, features: Any = None) -> Rows:
        """Load a split; a stream has shards, which are shuffled and shared out among processes."""
        rows = self.files(split).rows(split)
        return rows.to_iterable_dataset(num_shards=min(len(rows), _MAX_SHARDS)) if streaming else rows

    def count(self, split: str, rows: datasets.IterableDataset) -> int:
        """Return the number of images of a split."""
        return len(self.files(split).paths)

    def identity(self, split: str) -> str:
        """Return a digest of names, byte sizes and labels."""
        files = self.files(split)
        return split_digest(files.rows(split), files.image_column, files.label_column)
