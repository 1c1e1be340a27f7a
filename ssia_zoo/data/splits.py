"""Find the splits, the columns and the names of the classes of a data set."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt

from ssia_zoo.errors import DataError

_log = logging.getLogger(__name__)

Rows = Any  # a datasets.Dataset, or an IterableDataset where the split is streamed
# A split's name and its rows.
Part = tuple[str, Rows]


def find_split(splits: Sequence[str], asked: str | None, usual: Sequence[str], flag: str) -> str:
    """Returns the split asked for, or the first of the usual names that there is."""
    for name in [asked] if asked is not None else usual:
        if name in splits:
            return name
    found = ", ".join(splits)
    if asked is not None:
        raise DataError(f"there is no split {asked!r}; {flag} can be one of: {found}")
    if flag == "--eval-split" and list(splits) == ["train"]:
        raise DataError(
            "there is no split to evaluate on, only the one to train on; hold out a part of it by --holdout 0.1"
        )
    raise DataError(f"none of the splits is called {' or '.join(usual)}; name one of these by {flag}: {found}")


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
    names = [str(n) for n in range(num_classes or max(max(labels or [0]) for labels in encoded) + 1)]
    used = {label for labels in encoded for label in labels or ()}
    if None not in encoded and used and (empty := len(names) - len(used & set(range(len(names))))):
        _log.warning(
            "the numbers in %r make %d classes, 0 to %d, but %d of them have no image; each gets an output",
            *(column, len(names), len(names) - 1, empty),
        )
    return names, encoded


def _check_range(parts: Sequence[Part], column: str, encoded: list[Labels], names: Sequence[str]) -> None:
    expected = f"expected 0 to {len(names) - 1}" if names else "expected 0 or more"
    for (split, _), labels in zip(parts, encoded, strict=True):
        for row, label in enumerate(labels or ()):
            if not 0 <= label < len(names):
                raise DataError(f"row {row} of {split!r} has the {column} {label}; {expected}: label or remove it")


def rename_labels(rows: datasets.Dataset, column: str, names: Sequence[str]) -> tuple[datasets.Dataset, list[str]]:
    """Number the classes as in a list of names; those that it lacks come after them."""
    own = list(rows.features[column].names)
    names = [*names, *(name for name in own if name not in names)]
    if names == own:
        return rows, own
    numbers = {name: number for number, name in enumerate(names)}
    labels = [numbers[own[label]] for label in read_labels(rows, column)]
    feature = datasets.ClassLabel(names=names)
    return rows.remove_columns(column).add_column(column, labels, feature=feature), names


def check_classes_are_trained(
    trained: set[int], evaluated: set[int], names: Sequence[str], train_name: str, eval_name: str
) -> None:
    """Refuse classes that are evaluated but never trained on: a mistake in names or folders that counts as errors.

    Raises:
        DataError: There is one.
    """
    if missing := sorted(evaluated - trained):
        raise DataError(
            f"{eval_name!r} has images of {_few([names[label] for label in missing])} that {train_name!r} has none of; "
            "use splits with the same classes"
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


def keep_one_of_each(labels: Sequence[int], kept: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Change a choice of rows as little as possible so that each class keeps one; their number stays.

    A class without any gives its first row that was not chosen; in exchange, the last chosen rows of the classes with
    most of them are left out. Where there are fewer places than classes, it is the number that grows.
    """
    numbers, kept = np.asarray(labels), kept.copy()
    counts = np.bincount(numbers[kept], minlength=int(numbers.max(initial=0)) + 1)
    missing = [label for label in np.unique(numbers).tolist() if not counts[label]]
    for label in missing:
        kept[np.flatnonzero(numbers == label)[0]] = True
        largest = int(counts.argmax())
        if counts[largest] > 1:
            kept[np.flatnonzero(kept & (numbers == largest))[-1]] = False
            counts[largest] -= 1
    return kept


def subset(rows: datasets.Dataset, limit: int | None, column: str | None = None) -> datasets.Dataset:
    """Chooses that many rows at random, always the same, and keeps their order.

    Args:
        rows: A split.
        limit: Their number; all if None, or if there are fewer.
        column: Of labels, of which each class keeps a row; None if that does not matter.
    """
    if limit is None or limit >= len(rows):
        return rows
    kept = np.zeros(len(rows), dtype=np.bool_)
    kept[np.random.RandomState(0).permutation(len(rows))[:limit]] = True
    if column is not None:
        kept = keep_one_of_each(read_labels(rows, column), kept)
    return rows.select(np.flatnonzero(kept))
