"""Where the images of a data set come from: the digits, a folder of images, or whatever `datasets` loads."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import datasets
import fsspec
import numpy as np
import numpy.typing as npt
import PIL.Image
import pyarrow.parquet as pq
from datasets.data_files import DataFilesDict, get_data_patterns
from datasets.load import infer_module_for_data_files

from ssia_zoo.data.columns import mark_image_columns
from ssia_zoo.data.folders import ImageFolder, is_image_folder
from ssia_zoo.data.image_types import image_suffixes, suffix_of
from ssia_zoo.data.scanning import Scanner, few, printable
from ssia_zoo.data.data_files import MixedWebDataset
from ssia_zoo.data.split_words import split_word
from ssia_zoo.data.splits import Rows, stratified
from ssia_zoo.data.messages import is_main_process
from ssia_zoo.errors import DataError

_log = logging.getLogger(__name__)

# Formats whose files carry their own schema; an image folder's classes are those of all its splits.
_ONE_BY_ONE = ("parquet", "webdataset")
_NAMES_SHOWN = 20


class Source(Protocol):
    """A data set that has been found."""

    def splits(self) -> list[str]:
        """Name the splits."""

    def find(self, name: str) -> str:
        """The split that a user means by a name."""

    def load(self, split: str, *, streaming: bool = False, features: Any = None) -> Rows:
        """Load one split, to have it at hand or to be streamed; what is not of this split stays where it is.

        Args:
            split: One of `splits`.
            streaming: Whether to stream it.
            features: Types of the columns of all splits, where the files of one do not tell them.
        """

    def count(self, split: str, rows: datasets.IterableDataset) -> int | None:
        """Find the number of rows of a split that is streamed, or None if only reading it all would tell."""


def open_source(
    dataset: str, configuration: str | None = None, asked: Collection[str] = (), image_column: str | None = None
) -> Source:
    """Find a data set by its name.

    Args:
        dataset: "digits", a folder that exists, or else the id of a data set of the Hub.
        configuration: Which of several configurations of a data set to take.
        asked: Splits that the user named.
        image_column: Column with the images, if the user named one.

    Raises:
        DataError: It cannot be found or read.
    """
    path = None if dataset == "digits" else _local_path(dataset)
    scanner = Scanner(path) if path is not None else None
    images = scanner if scanner is not None and is_image_folder(scanner) else None
    if dataset == "digits" or images is not None:
        if configuration is not None:
            raise DataError(
                f"--dataset-config is {configuration!r}, but {dataset!r} has no configurations; leave it out"
            )
        if images is not None:
            return FolderSource(images, asked)
        if Path("digits").is_dir():
            _log.warning("'digits' is scikit-learn's; the folder of that name here is not used: ./digits names it")
        return Digits()
    return LoadedSource(dataset, path, configuration, image_column)


def digits() -> datasets.DatasetDict:
    """Makes scikit-learn's digits, in memory: 1,437 train and 360 test images, 8x8 grey, a fixed stratified split."""
    from sklearn.datasets import load_digits

    source = load_digits()
    pixels = np.rint(source.images * (255 / 16)).astype(np.uint8)
    held = stratified(source.target.tolist(), 360)
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=[str(name) for name in range(10)])}
    )

    def part(chosen: npt.NDArray[np.bool_]) -> datasets.Dataset:
        images = [PIL.Image.fromarray(image) for image in pixels[chosen]]
        return datasets.Dataset.from_dict({"image": images, "label": source.target[chosen].tolist()}, features=features)

    return datasets.DatasetDict({"train": part(~held), "test": part(held)})


class Digits:
    """scikit-learn's digits."""

    @cached_property
    def _parts(self) -> datasets.DatasetDict:
        return digits()

    def splits(self) -> list[str]:
        """Name the splits."""
        return list(self._parts)

    def find(self, name: str) -> str:
        """Return the name as it is."""
        return name

    def load(self, split: str, *, streaming: bool = False, features: Any = None) -> Rows:
        """Take one split."""
        return self._parts[split].to_iterable_dataset() if streaming else self._parts[split]

    def count(self, split: str, rows: datasets.IterableDataset) -> int:
        """Count the images of a split."""
        return len(self._parts[split])


class FolderSource(ImageFolder):
    """A folder of images, of which `datasets` is given the files."""

    def load(self, split: str, *, streaming: bool = False, features: Any = None) -> Rows:
        """List the images of a split."""
        rows = self.files(split).rows(split)
        # Pieces that are shuffled, and shared out among processes, though all names are at hand.
        return rows.to_iterable_dataset(num_shards=min(len(rows), 1024)) if streaming else rows

    def count(self, split: str, rows: datasets.IterableDataset) -> int:
        """Count the images of a split."""
        return len(self.files(split).paths)


class LoadedSource:
    """A folder of data files, or a data set of the Hub, as `datasets` loads it.

    Args:
        dataset: Its name, for messages.
        path: The folder, or None.
        configuration: Which of several configurations to take.
        image_column: Column with the images, if the user named one.
    """

    def __init__(
        self, dataset: str, path: str | None, configuration: str | None = None, image_column: str | None = None
    ) -> None:
        self.dataset = dataset
        self.path = path
        self.configuration = configuration
        self.image_column = image_column
        self._shard_column: str | None = None

    def splits(self) -> list[str]:
        """Name the splits."""
        with self._one_line():
            if self._files:
                self._check_files()
                return [str(split) for split in self._files]
            return [str(split) for split in datasets.get_dataset_split_names(self.dataset, self.configuration)]

    def find(self, name: str) -> str:
        """Return the name as it is, or the split that the word stands for."""
        splits = self.splits()
        return split_word(name) or name if name not in splits and split_word(name) in splits else name

    def load(self, split: str, *, streaming: bool = False, features: Any = None) -> Rows:
        """Load one split."""
        with self._one_line(), _progress(self.path is None):
            rows = self._load(split, streaming, features)
            folders = [
                folder for folder in (self.path, *map(os.path.dirname, self._files.get(split, ())[:1])) if folder
            ]
            return mark_image_columns(rows, self.image_column, folders)

    def _load(self, split: str, streaming: bool, features: Any) -> Rows:
        builder, files = self._builder, self._files
        options: dict[str, Any] = {"features": builder.info.features}
        if files and builder.name not in _ONE_BY_ONE and features is not None:
            options = {"features": features}
            if isinstance(features.get("label"), datasets.ClassLabel):
                options["drop_labels"] = False  # though all images may be of one class here
        elif not files or builder.name not in _ONE_BY_ONE:
            if self.path is not None and glob.has_magic(self.path):
                return datasets.load_dataset(builder.name, data_files=_escaped(files), split=split, streaming=streaming)
            name = self.path or self.dataset
            return datasets.load_dataset(name, self.configuration, split=split, streaming=streaming)
        # Loaded with the others, a split would get their class names for its own numbers.
        chosen = _escaped({split: files[split]})
        if builder.name == "webdataset":
            rows = MixedWebDataset.load(chosen[split], split, streaming=streaming)
            images = [name for name, feature in (rows.features or {}).items() if isinstance(feature, datasets.Image)]
            if len(images) == 1:  # of a suffix that may be another in each split
                self._shard_column = self._shard_column or images[0]
                return rows.rename_column(images[0], self._shard_column) if images[0] != self._shard_column else rows
            return rows
        return datasets.load_dataset(builder.name, data_files=chosen, split=split, streaming=streaming, **options)

    def count(self, split: str, rows: datasets.IterableDataset) -> int | None:
        """Find the number of rows: the data set's own description has it, or the ends of its parquet files have."""
        described = (rows.info.splits or {}).get(split)
        if described is not None and described.num_examples:
            return int(described.num_examples)
        with self._one_line():
            if self._builder.name != "parquet":
                return None
            total = 0
            for path in self._files[split]:
                with fsspec.open(path) as file:
                    total += pq.read_metadata(file).num_rows
            return total

    @cached_property
    def _builder(self) -> Any:
        with _progress(self.path is None):
            if self.path is None or not glob.has_magic(self.path):
                return datasets.load_dataset_builder(self.path or self.dataset, self.configuration)
            # `datasets` takes the folder's name for a pattern.
            if self.configuration is not None:
                raise DataError(f"--dataset-config needs a folder without *, ? or [ in its name; rename {self.path!r}")
            base = glob.escape(self.path)
            found = DataFilesDict.from_patterns(get_data_patterns(base), base_path=base)
            module, options = infer_module_for_data_files(found)
            if module is None:
                raise DataError(
                    f"{self.dataset!r} holds no data files; give a folder of parquet files, shards or images"
                )
            return datasets.load_dataset_builder(module, data_files=_escaped(found), **options)

    @cached_property
    def _files(self) -> dict[str, list[str]]:
        """The files of each split; none where a script or the Hub's server knows them."""
        files = {
            str(split): [str(file) for file in paths]
            for split, paths in (self._builder.config.data_files or {}).items()
        }
        if self.path is None:
            return files
        files = _regrouped(files, self.path)
        if self.configuration is None and is_main_process() and (unused := _unused(files, self.path)):
            _log.warning(
                "%s: left out data files that are of no split by their names (%d): %s",
                *(self.dataset, len(unused), few(unused)),
            )
        return files

    def _check_files(self) -> None:
        """Refuse files that two splits share: `datasets` takes words such as train anywhere in a path."""
        splits: dict[str, str] = {}
        for split, paths in self._files.items():
            for path in paths:
                if os.path.basename(path).startswith("metadata."):  # which may be of all splits
                    continue
                first = splits.setdefault(path if "://" in path else os.path.realpath(path), split)
                if first != split:
                    raise DataError(
                        f"{path} is of the splits {first!r} and {split!r} at once, by the words in its path; rename "
                        "it, or its folders, so that one split is named"
                    )

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        """Make one error of what `datasets` raises."""
        try:
            yield
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            if isinstance(error, DataError):
                raise
            if configurations := self._configurations(error):
                shown = ", ".join(configurations[:_NAMES_SHOWN]) + (", …" if len(configurations) > _NAMES_SHOWN else "")
                wrong = "several configurations" if self.configuration is None else f"no {self.configuration!r}"
                raise DataError(
                    f"the data set {self.dataset!r} has {wrong}; choose one by --dataset-config: {shown}"
                ) from error
            # A DatasetGenerationError only says that there was an error; its cause says which.
            reason = " ".join(str(error.__cause__ or error).split())[:300]
            advice = (
                "check the files in this folder"
                if self.path is not None
                else "check the id and the network, log in by 'hf auth login' if it is gated, or give a folder"
            )
            raise DataError(f"the data set {self.dataset!r} cannot be loaded ({reason}); {advice}") from error

    def _configurations(self, error: Exception) -> list[str]:
        """Name the configurations, if the error is that none of them was chosen."""
        if not str(error).startswith(("Config name is missing", "BuilderConfig ")):
            return []
        try:
            return [str(name) for name in datasets.get_dataset_config_names(self.path or self.dataset)]
        except Exception:  # the first error is the one to tell
            return []


def _local_path(name: str) -> str | None:
    """The whole path of a folder, or None for what may be a Hub id."""
    path = Path(name).expanduser()
    if path.is_file():
        raise DataError(f"the data set {name!r} is a file; give the folder that it is in")
    if path.is_dir():
        return str(path.resolve())
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise DataError(f"the data set folder {name!r} does not exist; give an existing folder, a Hub id or 'digits'")
    return None


def _escaped(files: dict[str, list[str]]) -> dict[str, list[str]]:
    """Paths that `datasets` takes for themselves, not for patterns."""
    return {split: [path if "://" in path else glob.escape(path) for path in paths] for split, paths in files.items()}


def _regrouped(files: dict[str, list[str]], root: str) -> dict[str, list[str]]:
    """Splits by words in letters of any case, where `datasets` finds none (Train.parquet, Test/0.parquet).

    Files without such a word, beside files with one, are splits of their own names: they are not trained on unasked.
    """
    if list(files) != ["train"]:
        return files
    grouped: dict[str, list[str]] = {}
    words = False
    for path in files["train"]:
        first, *rest = os.path.relpath(path, root).split(os.sep)
        first = first if rest else first.split(".")[0]
        kind = split_word(first) or split_word(os.path.basename(path).split(".")[0])
        words |= kind is not None
        grouped.setdefault(kind or re.sub(r"\W+", "_", first), []).append(path)
    return grouped if words else files


def _unused(files: dict[str, list[str]], root: str) -> list[str]:
    """Name the data files in a folder that are of no split: `datasets` passes over them without a word."""
    used = {path for paths in files.values() for path in paths}
    suffixes = {*map(suffix_of, used), ".parquet", ".arrow", ".tar"} - image_suffixes()
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = [os.path.join(folder, name) for name in sorted(names) if not name.startswith(".")]
        found += [path for path in paths if path not in used and suffix_of(path) in suffixes]
    return [printable(os.path.relpath(path, root)) for path in found]


@contextmanager
def _progress(shown: bool) -> Iterator[None]:
    """Hide the progress bars of `datasets`: nothing is downloaded of a local folder."""
    if shown or not datasets.is_progress_bar_enabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()
