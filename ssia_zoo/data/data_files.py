"""Data sets that the library datasets reads: folders of data files, and those of the Hub."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import datasets
import fsspec
import pyarrow.parquet as pq
from datasets.data_files import DataFilesDict, get_data_patterns
from datasets.load import infer_module_for_data_files
from datasets.packaged_modules.webdataset.webdataset import WebDataset

from ssia_zoo.data.columns import Rows, mark_image_columns
from ssia_zoo.data.image_types import image_suffixes, suffix_of
from ssia_zoo.data.messages import abbreviate, is_main_process, printable
from ssia_zoo.data.splits import split_in_name
from ssia_zoo.errors import DataError, one_line

_log = logging.getLogger(__name__)

# Formats whose files carry their own schema, so that a split is loaded without the others.
_SELF_DESCRIBING = ("parquet", "webdataset")
_NAMES_SHOWN = 20


class DataFilesSource:
    """A folder of data files, or a data set of the Hub.

    Args:
        dataset: Its name, for messages.
        path: The folder, or None.
        configuration: The value of `dataset_config`.
        image_column: The value of `image_column`.
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
        """Return the names of the splits."""
        with self._translate_errors():
            if self._files:
                self._check_files()
                return [str(split) for split in self._files]
            return [str(split) for split in datasets.get_dataset_split_names(self.dataset, self.configuration)]

    def find(self, name: str) -> str:
        """Return the split of this name, or that a part of the name means."""
        splits = self.splits()
        return split_in_name(name) or name if name not in splits and split_in_name(name) in splits else name

    def load(self, split: str, *, streaming: bool = False, features: Any = None) -> Rows:
        """Load a split.

        Args:
            split: One of `splits`.
            streaming: Whether to stream it.
            features: Column types of another split, for formats whose files do not carry them.
        """
        with self._translate_errors(), _progress_bars(shown=self.path is None):
            rows = self._load(split, streaming, features)
            folders = [
                folder for folder in (self.path, *map(os.path.dirname, self._files.get(split, ())[:1])) if folder
            ]
            return mark_image_columns(rows, self.image_column, folders)

    def _load(self, split: str, streaming: bool, features: Any) -> Rows:
        builder, files = self._builder, self._files
        options: dict[str, Any] = {"features": builder.info.features}
        if files and builder.name not in _SELF_DESCRIBING and features is not None:
            options = {"features": features}
            if isinstance(features.get("label"), datasets.ClassLabel):
                options["drop_labels"] = False  # datasets drops them where all images of the split are of one class
        elif not files or builder.name not in _SELF_DESCRIBING:
            if self.path is not None and glob.has_magic(self.path):
                return datasets.load_dataset(builder.name, data_files=_escape(files), split=split, streaming=streaming)
            name = self.path or self.dataset
            return datasets.load_dataset(name, self.configuration, split=split, streaming=streaming)
        # One split alone: with the others, its class numbers would get the names of the first split.
        chosen = _escape({split: files[split]})
        if builder.name == "webdataset":
            return self._load_shards(chosen[split], split, streaming)
        return datasets.load_dataset(builder.name, data_files=chosen, split=split, streaming=streaming, **options)

    def _load_shards(self, files: list[str], split: str, streaming: bool) -> Rows:
        """Load webdataset shards; their image column, named for a suffix, gets the same name in each split."""
        rows = MixedWebDataset.load(files, split, streaming=streaming)
        images = [name for name, feature in (rows.features or {}).items() if isinstance(feature, datasets.Image)]
        if len(images) != 1:
            return rows
        self._shard_column = self._shard_column or images[0]
        return rows.rename_column(images[0], self._shard_column) if images[0] != self._shard_column else rows

    def count(self, split: str, rows: datasets.IterableDataset) -> int | None:
        """Return the number of rows of a streamed split from its description or its parquet files; None if unknown."""
        described = (rows.info.splits or {}).get(split)
        if described is not None and described.num_examples:
            return int(described.num_examples)
        with self._translate_errors():
            if self._builder.name != "parquet":
                return None
            total = 0
            for path in self._files[split]:
                with fsspec.open(path) as file:
                    total += pq.read_metadata(file).num_rows
            return total

    def identity(self, split: str) -> str:
        """Return names and byte sizes of a split's files; of the Hub's, addresses with the commit."""
        root = self.path
        files = sorted(
            path if "://" in path or root is None else f"{os.path.relpath(path, root)}, {os.path.getsize(path)} bytes"
            for path in self._files.get(split, ())
        )
        return "; ".join(files)

    @cached_property
    def _builder(self) -> Any:
        with _progress_bars(shown=self.path is None):
            if self.path is None or not glob.has_magic(self.path):
                return datasets.load_dataset_builder(self.path or self.dataset, self.configuration)
            # datasets would read the folder's name as a pattern.
            if self.configuration is not None:
                raise DataError(f"`dataset_config` needs a folder without *, ? or [ in its name; rename {self.path!r}")
            base = glob.escape(self.path)
            found = DataFilesDict.from_patterns(get_data_patterns(base), base_path=base)
            module, options = infer_module_for_data_files(found)
            if module is None:
                raise DataError(
                    f"{self.dataset!r} holds no data files; expected a folder of parquet files, shards or images"
                )
            return datasets.load_dataset_builder(module, data_files=_escape(found), **options)

    @cached_property
    def _files(self) -> dict[str, list[str]]:
        """The files of each split; empty where only a script or the Hub's server knows them."""
        files = {
            str(split): [str(file) for file in paths]
            for split, paths in (self._builder.config.data_files or {}).items()
        }
        if self.path is None:
            return files
        files = _regroup(files, self.path)
        if self.configuration is None and is_main_process() and (unused := _unused(files, self.path)):
            _log.warning(
                "%s: left out data files whose names match no split (%d): %s",
                *(self.dataset, len(unused), abbreviate(unused)),
            )
        return files

    def _check_files(self) -> None:
        """Refuse files of two splits: datasets matches words such as train anywhere in a path."""
        splits: dict[str, str] = {}
        for split, paths in self._files.items():
            for path in paths:
                if os.path.basename(path).startswith("metadata."):  # may belong to all splits
                    continue
                first = splits.setdefault(path if "://" in path else os.path.realpath(path), split)
                if first != split:
                    raise DataError(
                        f"the path of {path} names both the splits {first!r} and {split!r}; rename the file or its "
                        "folders so that it names one"
                    )

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Turn errors of datasets into one-line errors."""
        try:
            yield
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            if isinstance(error, DataError):
                raise
            if configurations := self._configurations(error):
                wrong = "several configurations" if self.configuration is None else f"no {self.configuration!r}"
                raise DataError(
                    f"the data set {self.dataset!r} has {wrong}; set `dataset_config` to one of: "
                    f"{abbreviate(configurations, _NAMES_SHOWN)}"
                ) from error
            # A DatasetGenerationError has no details; they are in its cause.
            reason = one_line(error.__cause__ or error, 300)
            advice = (
                "check the files in this folder"
                if self.path is not None
                else "check the id and the network, log in by 'hf auth login' if it is gated, or give a folder"
            )
            raise DataError(f"the data set {self.dataset!r} cannot be loaded ({reason}); {advice}") from error

    def _configurations(self, error: Exception) -> list[str]:
        """Return all configurations if the error is that none, or a wrong one, was chosen."""
        if not str(error).startswith(("Config name is missing", "BuilderConfig ")):
            return []
        try:
            return [str(name) for name in datasets.get_dataset_config_names(self.path or self.dataset)]
        except Exception:  # report the first error instead
            return []


class MixedWebDataset(WebDataset):  # type: ignore[misc]
    """Reader of webdataset shards whose image suffix differs between samples (.png, .jpg, .jpeg), one image a sample.

    The image column is named for the first image's suffix.
    """

    @classmethod
    def load(cls, files: list[str], split: str, *, streaming: bool) -> Any:
        """Load the shards of a split, given by paths or patterns."""
        found = DataFilesDict.from_patterns({split: files})
        builder = cls(dataset_name="webdataset", config_name="default", data_files=found, hash="ssia_zoo")
        if streaming:
            return builder.as_streaming_dataset(split=split)
        builder.download_and_prepare()
        return builder.as_dataset(split=split)

    def _split_generators(self, dl_manager: Any) -> Any:
        self._column: str | None = None
        generators = super()._split_generators(dl_manager)
        images = [name for name, feature in self.info.features.items() if isinstance(feature, datasets.Image)]
        self._column = images[0] if len(images) == 1 else None
        return generators

    def _get_pipeline_from_tar(self, tar_path: str, tar_iterator: Any) -> Iterator[dict[str, Any]]:
        for sample in super()._get_pipeline_from_tar(tar_path, tar_iterator):
            images = [name for name in sample if name.rsplit(".", 1)[-1].lower() in self.IMAGE_EXTENSIONS]
            self._column = self._column or (images[0] if len(images) == 1 else "")
            if len(images) == 1 and self._column not in ("", images[0]):
                sample = {(self._column if name == images[0] else name): value for name, value in sample.items()}
            yield sample


def _escape(files: dict[str, list[str]]) -> dict[str, list[str]]:
    """Escape local paths, which datasets reads as patterns."""
    return {split: [path if "://" in path else glob.escape(path) for path in paths] for split, paths in files.items()}


def _regroup(files: dict[str, list[str]], root: str) -> dict[str, list[str]]:
    """Find splits by words in any case where datasets finds none (Train.parquet, Test/0.parquet).

    Beside files whose names hold such a word, others become splits of their own names, so they are not trained on.
    """
    if list(files) != ["train"]:
        return files
    grouped: dict[str, list[str]] = {}
    named = False
    for path in files["train"]:
        first, *rest = os.path.relpath(path, root).split(os.sep)
        first = first if rest else first.split(".")[0]
        split = split_in_name(first) or split_in_name(os.path.basename(path).split(".")[0])
        named |= split is not None
        grouped.setdefault(split or re.sub(r"\W+", "_", first), []).append(path)
    return grouped if named else files


def _unused(files: dict[str, list[str]], root: str) -> list[str]:
    """Return the data files in a folder that belong to no split; datasets ignores them silently."""
    used = {path for paths in files.values() for path in paths}
    suffixes = {*map(suffix_of, used), ".parquet", ".arrow", ".tar"} - image_suffixes()
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = [os.path.join(folder, name) for name in sorted(names) if not name.startswith(".")]
        found += [path for path in paths if path not in used and suffix_of(path) in suffixes]
    return [printable(os.path.relpath(path, root)) for path in found]


@contextmanager
def _progress_bars(*, shown: bool) -> Iterator[None]:
    """Hide the progress bars of datasets unless shown; a local folder downloads nothing."""
    if shown or not datasets.is_progress_bar_enabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()
