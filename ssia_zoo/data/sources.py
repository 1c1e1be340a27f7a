"""Open a data set by its name: the digits, a folder of images or data files, or a data set of the Hub."""

from __future__ import annotations

import logging
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import datasets
import numpy as np
import numpy.typing as npt
import PIL.Image

from ssia_zoo.data.columns import Rows
from ssia_zoo.data.config import DataConfig
from ssia_zoo.data.data_files import DataFilesSource
from ssia_zoo.data.folders import FolderSource, is_image_folder
from ssia_zoo.data.scanning import Scanner
from ssia_zoo.data.splits import stratified
from ssia_zoo.data.tables import TableSource
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

    def identity(self, split: str) -> str:
        """Return what tells a split from others without reading it, in any folder; "" if nothing is known."""


def open_source(config: DataConfig) -> Source:
    """Open the data set that the settings name: "digits", an existing folder, or the id of a data set of the Hub.

    Raises:
        DataError: It cannot be found or read.
    """
    dataset = config.dataset
    path = None if dataset == "digits" else _local_path(dataset)
    scanner = Scanner(path) if path is not None else None
    if config.labels is not None and scanner is None:
        raise DataError(f"`labels` requires the folder of the photos as `dataset`, which is {dataset!r}")
    files = scanner if scanner is not None and (config.labels is not None or is_image_folder(scanner)) else None
    if dataset != "digits" and files is None:
        return DataFilesSource(dataset, path, config.dataset_config, config.image_column)
    if config.dataset_config is not None:
        raise DataError(
            f"`dataset_config` is {config.dataset_config!r}, but {dataset!r} has no configurations; leave it out"
        )
    if files is not None and config.labels is not None:
        return TableSource(files, config.labels, config.image_column, config.label_column, config.label_separator)
    if files is not None:
        return FolderSource(files, [name for name in (config.train_split, config.eval_split) if name is not None])
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

    def identity(self, split: str) -> str:
        """Return the name."""
        return "digits"


def _local_path(name: str) -> str | None:
    """Return the absolute path of a folder, or None for what may be a Hub id."""
    path = Path(name).expanduser()
    if path.is_file():
        advice = "give its folder, and a CSV or TSV file of labels by `labels`"
        raise DataError(f"the data set {name!r} is a file; {advice}")
    if path.is_dir():
        return str(path.resolve())
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise DataError(f"the data set folder {name!r} does not exist; give an existing folder, a Hub id or 'digits'")
    return None
