"""Images with several labels: name the classes of lists, and turn them into targets."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, islice
from typing import Any

import datasets
from timm.data import MultiLabelTarget

from ssia_zoo.data.columns import Part, Rows, column_types
from ssia_zoo.data.labels import name_labels, read_labels
from ssia_zoo.errors import DataError

_LISTS = (datasets.List, datasets.LargeList)


def is_multi_label(rows: Rows, column: str) -> bool:
    """Return whether a column holds lists of labels."""
    return isinstance(column_types(rows)[column], _LISTS)


def read_classes(rows: datasets.Dataset, column: str) -> set[int]:
    """Return the classes that occur in a split."""
    labels = read_labels(rows, column)
    return set(chain.from_iterable(labels)) if is_multi_label(rows, column) else set(labels)


def multi_label_target(rows: datasets.Dataset, column: str) -> MultiLabelTarget | None:
    """Return timm's conversion of a list of classes to a vector of 0 and 1; None for single labels."""
    if not is_multi_label(rows, column):
        return None
    return MultiLabelTarget(rows.features[column].feature.num_classes)


def name_all_labels(
    parts: Sequence[Part], column: str, num_classes: int | None, separator: str | None
) -> tuple[list[Rows], list[str]]:
    """Convert labels to ClassLabels, or lists of labels to lists of ClassLabels; otherwise as `name_labels`.

    Args:
        parts: The training split, then the evaluation split if there is one.
        column: The labels.
        num_classes: Expected number of classes.
        separator: Separates several labels in a string.

    Raises:
        DataError: A label is missing or out of range, the splits have different classes, or are streamed.
    """
    lists = [is_multi_label(rows, column) for _, rows in parts]
    if not any(lists) and not separator:
        return name_labels(parts, column, num_classes)
    if any(isinstance(rows, datasets.IterableDataset) for _, rows in parts):
        raise DataError("images with several labels cannot be streamed; leave out `streaming`")
    if any(lists) and not all(lists):
        raise DataError(f"the column {column!r} holds lists of labels in one of the splits only; use the same form")
    values, flat = [], []
    for split, rows in parts:
        feature = column_types(rows)[column]
        item = feature.feature if isinstance(feature, _LISTS) else feature
        if not isinstance(feature, _LISTS) and str(getattr(feature, "dtype", "")) not in ("string", "large_string"):
            raise DataError(
                f"`label_separator` is {separator!r}, but the column {column!r} has the type {type(item).__name__}; "
                "expected strings: leave it out"
            )
        labels = _lists(split, rows, column, item, None if isinstance(feature, _LISTS) else separator)
        values.append(labels)
        flat.append((split, _single(column, item, list(chain.from_iterable(labels)))))
    encoded, names = name_labels(flat, column, num_classes)
    feature = datasets.List(datasets.ClassLabel(names=names))
    named = []
    for (_, rows), labels, numbers in zip(parts, values, encoded, strict=True):
        remaining = iter(read_labels(numbers, column))
        grouped = [sorted(set(islice(remaining, len(row)))) for row in labels]
        named.append(rows.remove_columns(column).add_column(column, grouped, feature=feature))
    return named, names


def _single(column: str, item: Any, labels: list[Any]) -> datasets.Dataset:
    """Return single labels as rows; datasets loses the number of rows if their only column is replaced."""
    features = datasets.Features({f"{column} place": datasets.Value("int64"), column: item})
    return datasets.Dataset.from_dict({f"{column} place": range(len(labels)), column: labels}, features=features)


def _lists(split: str, rows: datasets.Dataset, column: str, item: Any, separator: str | None) -> list[list[Any]]:
    """Read the lists of a split, or split its strings; check each label."""
    values = read_labels(rows, column)
    if None in values:
        raise DataError(f"row {values.index(None)} of {split!r} has no {column}; label it or remove it")
    if separator:
        return [[part.strip() for part in value.split(separator) if part.strip()] for value in values]
    limit = len(item.names) if isinstance(item, datasets.ClassLabel) else None
    # With two classes, a row of 0 and 1 could be both; in every row, in either order, it is 0 and 1 for each class.
    if {tuple(labels) for labels in values} == {(0, 1), (1, 0)}:
        raise DataError(_one_hot(0, split, column))
    for row, labels in enumerate(values):
        for label in labels:
            if label is None or (isinstance(label, int) and (label < 0 or (limit is not None and label >= limit))):
                raise DataError(f"row {row} of {split!r} has the {column} {label}; label or remove it")
        if len(set(labels)) < len(labels) and set(labels) <= {0, 1}:
            raise DataError(_one_hot(row, split, column))
    lists: list[list[Any]] = values
    return lists


def _one_hot(row: int, split: str, column: str) -> str:
    return (
        f"row {row} of {split!r} holds 0 and 1 for each class in {column!r}; expected the numbers or names of "
        "its classes"
    )
