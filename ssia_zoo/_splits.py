"""Finding a data set by its name, and in it the splits, the columns and the names of the classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import fsspec
import numpy as np
import numpy.typing as npt
import PIL.Image
import pyarrow.parquet as pq

from ssia_zoo.errors import DataError

Rows = Any  # a datasets.Dataset, or an IterableDataset where the split is streamed
# A split's name and its rows.
Part = tuple[str, Rows]
# Formats whose files say themselves what their columns are; an image folder's classes are those of all its splits.
_ONE_BY_ONE = ("parquet", "webdataset")


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


def split_names(name: str) -> list[str]:
    """Names the splits of "digits", of a folder that exists, or else of a data set of the Hub."""
    if name == "digits":
        return list(digits())
    with _told_in_one_line(name):
        files = datasets.load_dataset_builder(_source(name)).config.data_files
        return [str(split) for split in files or datasets.get_dataset_split_names(_source(name))]


def load_split(name: str, split: str, *, streaming: bool = False, features: Any = None) -> Rows:
    """Loads one split, to have it at hand or to be streamed; what is not of this split stays where it is.

    Args:
        name: Data set.
        split: One of `split_names`.
        streaming: Whether to stream it.
        features: Types of the columns of all splits, where the files of one do not tell them.
    """
    if name == "digits":
        rows = digits()[split]
        return rows.to_iterable_dataset() if streaming else rows
    with _told_in_one_line(name):
        builder = datasets.load_dataset_builder(_source(name))
        files, options = builder.config.data_files, {"features": builder.info.features}
        if files and builder.name not in _ONE_BY_ONE and features is not None:
            options = {"features": features}
            if isinstance(features.get("label"), datasets.ClassLabel):
                options["drop_labels"] = False  # though all images may be of one class here
        elif not files or builder.name not in _ONE_BY_ONE:
            return datasets.load_dataset(_source(name), split=split, streaming=streaming)
        # Loaded with the others, a split would get their class names for its own numbers.
        return datasets.load_dataset(
            builder.name, data_files={split: files[split]}, split=split, streaming=streaming, **options
        )


def count_rows(name: str, split: str, rows: datasets.IterableDataset) -> int | None:
    """Finds the number of rows of a split that is streamed, or None if only reading it all would tell.

    The data set's own description has it, or the ends of its parquet files have.
    """
    described = (rows.info.splits or {}).get(split)
    if described is not None and described.num_examples:
        return int(described.num_examples)
    if name == "digits":
        return len(digits()[split])
    with _told_in_one_line(name):
        builder = datasets.load_dataset_builder(_source(name))
        if builder.name != "parquet":
            return None
        total = 0
        for path in builder.config.data_files[split]:
            with fsspec.open(path) as file:
                total += pq.read_metadata(file).num_rows
        return total


def _source(name: str) -> str:
    """What `datasets` takes: a folder's whole path, or a Hub id."""
    path = Path(name).expanduser()
    if path.is_file():
        raise DataError(f"the data set {name!r} is a file; give the folder that it is in")
    if not path.is_dir() and (path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1):
        raise DataError(f"the data set folder {name!r} does not exist; give an existing folder, a Hub id or 'digits'")
    return str(path.resolve()) if path.is_dir() else name


@contextmanager
def _told_in_one_line(name: str) -> Iterator[None]:
    """Makes one error of what `datasets` raises."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        if isinstance(error, DataError):
            raise
        # A DatasetGenerationError only says that there was an error; its cause says which.
        reason = " ".join(str(error.__cause__ or error).split())[:300]
        advice = (
            "check the files in this folder"
            if Path(name).expanduser().is_dir()
            else "check the id and the network, log in by 'hf auth login' if it is gated or private, or give a folder"
        )
        raise DataError(f"the data set {name!r} cannot be loaded ({reason}); {advice}") from error


def find_split(splits: Sequence[str], asked: str | None, usual: Sequence[str], flag: str) -> str:
    """Returns the split asked for, or the first of the usual names that there is."""
    for name in [asked] if asked is not None else usual:
        if name in splits:
            return name
    found = ", ".join(splits)
    if asked is not None:
        raise DataError(f"there is no split {asked!r}; {flag} can be one of: {found}")
    holdout = ", or hold out a part of the training split by --holdout 0.1" if flag == "--eval-split" else ""
    raise DataError(f"none of the splits is called {' or '.join(usual)}; name one of these by {flag}: {found}{holdout}")


def find_image_column(parts: Sequence[Part], asked: str | None) -> str:
    """Returns the column asked for, or the only one that holds images."""
    images = [name for name, feature in columns(parts[0][1]).items() if isinstance(feature, datasets.Image)]
    return _column(parts, asked, images, "--image-column", "image")


def find_label_column(parts: Sequence[Part], asked: str | None) -> str:
    """Returns the column asked for, or the only one of class labels, or one that is named as labels are.

    A name with a dot is that of a part of a column, such as "json.label" in webdataset shards.
    """
    features = columns(parts[0][1])
    labels = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    labels = labels or [name for name in ("label", "labels", "cls") if name in features]
    labels = labels or [name for name in features if name.endswith(".label")]
    if asked is not None:
        labels = [name for name, feature in features.items() if not isinstance(feature, datasets.Image)]
    elif all(isinstance(feature, datasets.Image) for feature in features.values()):
        raise DataError(
            "there are images but no classes; expected at least two, such as two subfolders of images named for theirs"
        )
    return _column(parts, asked, labels, "--label-column", "label")


def select_columns(rows: Rows, image: str, label: str) -> Rows:
    """Keeps two columns; of a stream, the whole column that the label is a part of."""
    if _is_stream(rows):
        return rows.select_columns([image, label if label in rows.features else label.split(".")[0]])
    return (rows if label in rows.features else rows.flatten()).select_columns([image, label])


def columns(rows: Rows) -> dict[str, Any]:
    """The type of each column by its name, and of their parts by names with dots.

    Raises:
        DataError: A stream's columns are not known before it is read.
    """
    if rows.features is None:
        raise DataError("a stream of this kind names no columns before it is read; load it without --streaming")
    return dict(rows.features.flatten())


def _column(parts: Sequence[Part], asked: str | None, candidates: list[str], flag: str, what: str) -> str:
    """Returns the column asked for, or the only candidate; it is in every part."""
    if asked is None and len(candidates) > 1:
        raise DataError(f"there are several {what} columns; choose one by {flag}: {', '.join(candidates)}")
    if asked is None and not candidates:
        raise DataError(f"no {what} column was found among {', '.join(columns(parts[0][1]))}; name it by {flag}")
    name = candidates[0] if asked is None else asked
    if name not in candidates:
        raise DataError(f"{flag} {name!r} is not a column of {what}s; found: {', '.join(candidates) or 'none'}")
    for split, rows in parts:
        if name not in columns(rows):
            raise DataError(f"the split {split!r} has no column {name!r}; name a column of both splits by {flag}")
    return name


def read_labels(rows: datasets.Dataset, column: str) -> list[Any]:
    """Reads a column of labels, whole."""
    values: list[Any] = rows.select_columns([column]).with_format("arrow")[:][column].to_pylist()
    return values


def name_labels(parts: Sequence[Part], column: str, num_classes: int | None = None) -> tuple[list[Rows], list[str]]:
    """Makes the labels ClassLabels of common names: their own, the sorted strings, or "0" to the largest number.

    Of a stream it is only found out what its labels will be named; nothing is read.

    Args:
        parts: The split to train on, and one to evaluate on or none.
        column: That of the labels, in each part.
        num_classes: Number of classes, if it is known beforehand.

    Returns:
        The parts' rows, with the labels replaced, and the names.
    """
    types = [_type_name(columns(rows)[column]) for _, rows in parts]
    values = [None if _is_stream(rows) else read_labels(rows, column) for _, rows in parts]
    for (split, _), labels in zip(parts, values, strict=True):
        if labels is not None and None in labels:
            raise DataError(f"row {labels.index(None)} of {split!r} has no {column}; label it or remove it")
    kinds = {"int" if t == "bool" else t.removeprefix("large_").removeprefix("u").rstrip("0123456789") for t in types}
    if kinds == {"ClassLabel"}:
        names, encoded = _common_names(parts, column, values)
    elif kinds == {"string"}:
        names, encoded = _named_by_strings(parts, column, values)
    elif kinds == {"int"}:
        names, encoded = _numbered(parts, column, values, num_classes)
    else:
        raise DataError(
            f"the column {column!r} holds {' and '.join(types)}; classes are ClassLabels, strings or integers, "
            "the same in all splits: choose another by --label-column"
        )
    if num_classes not in (None, len(names)):
        raise DataError(f"--num-classes is {num_classes}; the column {column!r} has {_few(names)}")
    _check_range(parts, column, encoded, names)
    _check_classes_are_trained(parts, encoded, names)
    feature = datasets.ClassLabel(names=names)
    # Replacing the column is free; casting it would write every image anew.
    return [
        rows
        if labels is None or (labels is before and kinds == {"ClassLabel"})
        else rows.remove_columns(column).add_column(column, labels, feature=feature)
        for (_, rows), before, labels in zip(parts, values, encoded, strict=True)
    ], names


Labels = list[Any] | None  # of one split; None of a stream


def _common_names(parts: Sequence[Part], column: str, values: list[Labels]) -> tuple[list[str], list[Labels]]:
    """ClassLabels: the names of the first split; others may lack some, or have them in another order."""
    names: list[str] = list(columns(parts[0][1])[column].names)
    numbers = {name: number for number, name in enumerate(names)}
    encoded: list[Labels] = []
    for (split, rows), labels in zip(parts, values, strict=True):
        own = list(columns(rows)[column].names)
        if own == names or labels is None:
            encoded.append(labels)
            continue
        used = sorted({own[label] for label in labels if 0 <= label < len(own)} - numbers.keys())
        if used:
            raise DataError(
                f"{split!r} has images of {_few(used)}, in {column!r}; {parts[0][0]!r} knows only {_few(names)}: use "
                "splits with the same classes"
            )
        encoded.append([numbers[own[label]] if 0 <= label < len(own) else label for label in labels])
    return names, encoded


def _named_by_strings(parts: Sequence[Part], column: str, values: list[Labels]) -> tuple[list[str], list[Labels]]:
    if None in values:
        raise DataError(
            f"the column {column!r} of the stream holds strings, whose classes are known only when all is read; load "
            "it without --streaming, or store it with ClassLabels or whole numbers"
        )
    names = sorted({label for labels in values for label in labels or ()})
    numbers = {name: number for number, name in enumerate(names)}
    return names, [[numbers[label] for label in labels or ()] for labels in values]


def _numbered(
    parts: Sequence[Part], column: str, values: list[Labels], num_classes: int | None
) -> tuple[list[str], list[Labels]]:
    if num_classes is None and None in values:
        raise DataError(
            f"the column {column!r} of the stream holds whole numbers without names; say how many classes there are "
            "by --num-classes, or load it without --streaming"
        )
    encoded = [None if labels is None else [int(label) for label in labels] for labels in values]
    return [str(n) for n in range(num_classes or max(max(labels or [0]) for labels in encoded) + 1)], encoded


def _check_range(parts: Sequence[Part], column: str, encoded: list[Labels], names: Sequence[str]) -> None:
    expected = f"expected 0 to {len(names) - 1}" if names else "expected 0 or more"
    for (split, _), labels in zip(parts, encoded, strict=True):
        for row, label in enumerate(labels or ()):
            if not 0 <= label < len(names):
                raise DataError(f"row {row} of {split!r} has the {column} {label}; {expected}: label or remove it")


def _check_classes_are_trained(parts: Sequence[Part], encoded: list[Labels], names: Sequence[str]) -> None:
    """A class that is evaluated but never trained on is a mistake in names or folders, and would count as errors."""
    trained, evaluated = encoded[0], encoded[-1]
    if trained is None or evaluated is None or len(set(trained)) < 2:  # of which there is a message of its own
        return
    if missing := sorted(set(evaluated) - set(trained)):
        raise DataError(
            f"{parts[-1][0]!r} has images of {_few([names[label] for label in missing])} that "
            f"{parts[0][0]!r} has none of; use splits with the same classes"
        )


def _is_stream(rows: Rows) -> bool:
    return isinstance(rows, datasets.IterableDataset)


def _type_name(feature: Any) -> str:
    return str(feature.dtype) if isinstance(feature, datasets.Value) else type(feature).__name__


def _few(names: Sequence[str]) -> str:
    return f"{len(names)} class{'es' * (len(names) != 1)}: {', '.join(names[:3])}{', …' if len(names) > 3 else ''}"


def stratified(labels: Sequence[int], count: int) -> npt.NDArray[np.bool_]:
    """Marks `count` of the labels, the same share of each class to within one; the choice is fixed."""
    # RandomState, not Generator: NumPy promises that its numbers never change.
    shuffled = np.random.RandomState(0).permutation(len(labels))
    by_class = shuffled[np.argsort(np.asarray(labels)[shuffled], kind="stable")]
    taken = np.diff(np.arange(len(labels) + 1) * count // max(len(labels), 1)) > 0
    held = np.zeros(len(labels), dtype=np.bool_)
    held[by_class[taken]] = True
    return held


def subset(rows: datasets.Dataset, limit: int | None) -> datasets.Dataset:
    """Chooses that many rows at random, always the same, and keeps their order."""
    if limit is None or limit >= len(rows):
        return rows
    return rows.select(np.sort(np.random.RandomState(0).permutation(len(rows))[:limit]))
