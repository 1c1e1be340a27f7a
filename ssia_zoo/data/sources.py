"""Open a data set by its name: the digits, a folder of images or data files, or a data set of the Hub."""

from __future__ import annotations

import logging
from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import datasets
import numpy as np
import numpy.typing as npt
import PIL.Image

from ssia_zoo.data.columns import Rows
from ssia_zoo.data.data_files import DataFilesSource
from ssia_zoo.data.folders import FolderSource, is_image_folder
from ssia_zoo.data.scanning import Scanner
from ssia_zoo.data.splits import stratified
from ssia_zoo.errors import DataError

_log = logging.getLogger(__name__)


class Source(Protocol):
    """A data set whose splits can be loaded."""

    def splits(self) -> list[str]:
        """Return the names of the splits."""

    def find(self, name: str) -> str:
        """Return the split that a name from the settings means."""

    def load(self, split: str, *, streaming: bool = False, features: Any = None) -> Rows:
        """Load a split, without the others.

        Args:
            split: One of `splits`.
            streaming: Whether to stream it.
            features: Column types of another split, for formats whose files do not carry them.
        """

    def count(self, split: str, rows: datasets.IterableDataset) -> int | None:
        """Return the number of rows of a streamed split; None if it is unknown before it is read."""


def open_source(
    dataset: str, configuration: str | None = None, given: Collection[str] = (), image_column: str | None = None
) -> Source:
    """Open a data set by its name.

    Args:
        dataset: "digits", an existing folder, or the id of a data set of the Hub.
        configuration: The value of `dataset_config`.
        given: Splits named by the settings.
        image_column: The value of `image_column`.

    Raises:
        DataError: It cannot be found or read.
    """
    path = None if dataset == "digits" else _local_path(dataset)
    scanner = Scanner(path) if path is not None else None
    images = scanner if scanner is not None and is_image_folder(scanner) else None
    if dataset != "digits" and images is None:
        return DataFilesSource(dataset, path, configuration, image_column)
    if configuration is not None:
        raise DataError(f"`dataset_config` is {configuration!r}, but {dataset!r} has no configurations; leave it out")
    if images is not None:
        return FolderSource(images, given)
    if Path("digits").is_dir():
        _log.warning("'digits' is scikit-learn's data set; for the folder of that name here, use ./digits")
    return DigitsSource()


def digits() -> datasets.DatasetDict:
    """Return scikit-learn's digits: 1,437 train and 360 test images, 8x8 grey, in a fixed stratified split."""
    from sklearn.datasets import load_digits  # 0.5 s, for this data set alone

    source = load_digits()
    pixels = np.rint(source.images * (255 / 16)).astype(np.uint8)
    test = stratified(source.target.tolist(), 360)
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=[str(name) for name in range(10)])}
    )

    def split(chosen: npt.NDArray[np.bool_]) -> datasets.Dataset:
        images = [PIL.Image.fromarray(image) for image in pixels[chosen]]
        return datasets.Dataset.from_dict({"image": images, "label": source.target[chosen].tolist()}, features=features)

    return datasets.DatasetDict({"train": split(~test), "test": split(test)})


class DigitsSource:
    """scikit-learn's digits."""

    @cached_property
    def _splits(self) -> datasets.DatasetDict:
        return digits()

    def splits(self) -> list[str]:
        """Return the names of the splits."""
        return list(self._splits)

    def find(self, name: str) -> str:
        """Return the name as it is."""
        return name

    def load(self, split: str, *, streaming: bool = False, features: Any = None) -> Rows:
        """Load a split."""
        return self._splits[split].to_iterable_dataset() if streaming else self._splits[split]

    def count(self, split: str, rows: datasets.IterableDataset) -> int:
        """Return the number of images of a split."""
        return len(self._splits[split])


def _local_path(name: str) -> str | None:
    """Return the absolute path of a folder, or None for what may be a Hub id."""
    path = Path(name).expanduser()
    if path.is_file():
        raise DataError(f"the data set {name!r} is a file; give its folder")
    if path.is_dir():
        return str(path.resolve())
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise DataError(f"the data set folder {name!r} does not exist; give an existing folder, a Hub id or 'digits'")
    return None
