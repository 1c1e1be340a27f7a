"""Turn labels of any type into class labels with the same names in all splits."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import datasets

from ssia_zoo.data.columns import Part, Rows, column_types
from ssia_zoo.data.messages import abbreviate
from ssia_zoo.errors import DataError

_log = logging.getLogger(__name__)

Labels = list[Any] | None
"""Labels of one split; None for a stream."""


def read_labels(rows: datasets.Dataset, column: str) -> list[Any]:
    """Return all labels of a split."""
    values: list[Any] = rows.select_columns([column]).with_format("arrow")[:][column].to_pylist()
    return values


def name_labels(parts: Sequence[Part], column: str, num_classes: int | None = None) -> tuple[list[Rows], list[str]]:
    """Convert labels to ClassLabels with common names: their own, the sorted strings, or "0" to the largest number.

    A stream is not read; its labels keep their type.

    Args:
        parts: The training split, then the evaluation split if there is one.
        column: The labels.
        num_classes: Expected number of classes.

    Returns:
        The rows of each split with the converted labels, and the names.

    Raises:
        DataError: A label is missing or out of range, or the splits have different classes.
    """
    types = [_type_name(column_types(rows)[column]) for _, rows in parts]
    values = [None if isinstance(rows, datasets.IterableDataset) else read_labels(rows, column) for _, rows in parts]
    for (split, _), labels in zip(parts, values, strict=True):
        if labels is not None and None in labels:
            raise DataError(f"row {labels.index(None)} of {split!r} has no {column}; label it or remove it")
    kinds = {"int" if t == "bool" else t.removeprefix("large_").removeprefix("u").rstrip("0123456789") for t in types}
    if kinds == {"ClassLabel"}:
        names, encoded = _from_class_labels(parts, column, values)
    elif kinds == {"string"}:
        names, encoded = _from_strings(column, values)
    elif kinds == {"int"}:
        names, encoded = _from_integers(column, values, num_classes)
    else:
        raise DataError(
            f"the column {column!r} has the type {' and '.join(types)}; expected ClassLabel, strings or integers, the "
            "same in all splits: choose another by `label_column`"
        )
    if num_classes not in (None, len(names)):
        raise DataError(f"`num_classes` is {num_classes}, but the column {column!r} has {_describe(names)}")
    _check_range(parts, column, encoded, names)
    feature = datasets.ClassLabel(names=names)
    # Casting the column instead would rewrite every image.
    return [
        rows
        if labels is None or (labels is before and kinds == {"ClassLabel"})
        else rows.remove_columns(column).add_column(column, labels, feature=feature)
        for (_, rows), before, labels in zip(parts, values, encoded, strict=True)
    ], names


def _from_class_labels(parts: Sequence[Part], column: str, values: list[Labels]) -> tuple[list[str], list[Labels]]:
    """Use the names of the first split; others may lack some, or have them in another order."""
    names: list[str] = list(column_types(parts[0][1])[column].names)
    numbers = {name: number for number, name in enumerate(names)}
    encoded: list[Labels] = []
    for (split, rows), labels in zip(parts, values, strict=True):
        own = list(column_types(rows)[column].names)
        if own == names or labels is None:
            encoded.append(labels)
            continue
        unknown = sorted({own[label] for label in labels if 0 <= label < len(own)} - numbers.keys())
        if unknown:
            raise DataError(
                f"{split!r} has images of {_describe(unknown)}, in {column!r}; {parts[0][0]!r} has only "
                f"{_describe(names)}: use splits with the same classes"
            )
        encoded.append([numbers[own[label]] if 0 <= label < len(own) else label for label in labels])
    return names, encoded


def _from_strings(column: str, values: list[Labels]) -> tuple[list[str], list[Labels]]:
    if None in values:
        raise DataError(
            f"the column {column!r} of the stream holds strings, whose classes are unknown before all is read; leave "
            "out `streaming`, or store ClassLabels or integers"
        )
    names = sorted({label for labels in values for label in labels or ()})
    numbers = {name: number for number, name in enumerate(names)}
    return names, [[numbers[label] for label in labels or ()] for labels in values]


def _from_integers(column: str, values: list[Labels], num_classes: int | None) -> tuple[list[str], list[Labels]]:
    if num_classes is None and None in values:
        raise DataError(
            f"the column {column!r} of the stream holds integers without names; set `num_classes`, or leave out "
            "`streaming`"
        )
    encoded = [None if labels is None else [int(label) for label in labels] for labels in values]
    names = [str(n) for n in range(num_classes or max(max(labels or [0]) for labels in encoded) + 1)]
    used = {label for labels in encoded for label in labels or ()}
    if None not in encoded and used and (empty := len(names) - len(used & set(range(len(names))))):
        _log.warning(
            "the integers in %r make %d classes, 0 to %d, but %d of them have no image; each gets an output",
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
    """Renumber the classes by a list of names; classes that are not in the list come after it."""
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
    """Refuse evaluation images of classes without a training image.

    Raises:
        DataError: There are such classes.
    """
    if missing := sorted(evaluated - trained):
        raise DataError(
            f"{eval_name!r} has images of {_describe([names[label] for label in missing])}, but {train_name!r} has "
            "none; use splits with the same classes"
        )


def _type_name(feature: Any) -> str:
    return str(feature.dtype) if isinstance(feature, datasets.Value) else type(feature).__name__


def _describe(names: Sequence[str]) -> str:
    return f"{len(names)} class{'es' * (len(names) != 1)}: {abbreviate(names)}"
