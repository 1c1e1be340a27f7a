"""Find the splits of a data set by their names, and choose rows of a split."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Literal, TypeGuard

import datasets
import numpy as np
import numpy.typing as npt

from ssia_zoo.errors import DataError

EVAL_SPLITS = ("validation", "valid", "val", "dev", "test")
_WORDS = {
    "train": ("train", "training", "trn"),
    "validation": ("validation", "valid", "val", "dev", "validate"),
    "test": ("test", "testing", "tst", "eval", "evaluation"),
}
_SPLITS = {word: split for split, words in _WORDS.items() for word in words}
# train_images, TestSet, validation-data-2
_ENDINGS = ("set", "data", "dataset", "images", "split", "folder")
_SPLITS_OF_PARTS = _SPLITS | {word + end: split for word, split in _SPLITS.items() for end in _ENDINGS}

Mask = npt.NDArray[np.bool_]
Labels = Sequence[int] | Sequence[list[int]]
"""The class of each row, or its list of classes."""


def split_of_name(name: str) -> str | None:
    """Return the split (train, validation or test) that a full name means, in any case, or None."""
    return _SPLITS.get(name.strip().lower())


def split_in_name(name: str) -> str | None:
    """Return the split that a part of a name means; None if there is no such part, or parts disagree."""
    splits = _splits_in_name(name)
    return splits.pop() if len(splits) == 1 else None


def _splits_in_name(name: str) -> set[str]:
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    words = (part.lower() for part in (*parts, *re.findall(r"[A-Za-z]+", name)))
    return {_SPLITS_OF_PARTS[word] for word in words if word in _SPLITS_OF_PARTS}


def names_test_split(name: str) -> bool:
    """Return whether any part of a name means a test split, such as "test", "TestSet" or "test_validated"."""
    return "test" in _splits_in_name(name)


def find_split(splits: Sequence[str], given: str | None, setting: Literal["train_split", "eval_split"]) -> str:
    """Return the given split, or else the first of the default names that exists.

    Args:
        splits: All splits.
        given: The value of the setting.
        setting: Which split to find.

    Raises:
        DataError: There is no such split.
    """
    defaults = ("train",) if setting == "train_split" else EVAL_SPLITS
    for name in [given] if given is not None else defaults:
        if name in splits:
            return name
    found = ", ".join(splits)
    if given is not None:
        raise DataError(f"there is no split {given!r}; `{setting}` can be one of: {found}")
    if setting == "eval_split" and list(splits) == ["train"]:
        raise DataError(
            "there is no evaluation split; set `holdout`, such as 0.1, to hold out a part of the training split"
        )
    raise DataError(f"no split is called {' or '.join(defaults)}; set `{setting}` to one of: {found}")


def stratified(labels: Labels, count: int) -> Mask:
    """Choose `count` rows with the same share of each class, to within one; the choice is always the same.

    Rows with lists of classes are divided by combinations of classes instead.
    """
    labels = _combinations(labels)
    # RandomState, not Generator: NumPy guarantees that its numbers never change.
    shuffled = np.random.RandomState(0).permutation(len(labels))
    by_class = shuffled[np.argsort(np.asarray(labels)[shuffled], kind="stable")]
    taken = np.diff(np.arange(len(labels) + 1) * count // max(len(labels), 1)) > 0
    chosen = np.zeros(len(labels), dtype=np.bool_)
    chosen[by_class[taken]] = True
    return chosen


def keep_one_of_each(labels: Labels, kept: Mask) -> Mask:
    """Change a choice of rows as little as possible so that each class keeps one.

    A class without a row gets its first; in exchange, the largest classes lose their last. So the number of rows stays,
    unless there are more classes than rows.
    """
    if _are_lists(labels):
        return _keep_one_of_each_in_lists(labels, kept)
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


def _keep_one_of_each_in_lists(labels: Sequence[list[int]], kept: Mask) -> Mask:
    """Add the first row of each class without one; in exchange, remove the last rows whose classes all have another."""
    kept, size = kept.copy(), int(kept.sum())
    counts = Counter(chain.from_iterable(labels[row] for row in np.flatnonzero(kept).tolist()))
    for row, numbers in enumerate(labels):
        if not kept[row] and not all(counts[number] for number in numbers):
            kept[row] = True
            counts.update(numbers)
    for row in np.flatnonzero(kept)[::-1].tolist():
        if kept.sum() > size and all(counts[number] > 1 for number in labels[row]):
            kept[row] = False
            counts.subtract(labels[row])
    return kept


def _are_lists(labels: Labels) -> TypeGuard[Sequence[list[int]]]:
    return len(labels) > 0 and isinstance(labels[0], list)


def _combinations(labels: Labels) -> Sequence[int]:
    """Number the combinations of classes in lists; similar ones are next to each other."""
    if not _are_lists(labels):
        return labels  # type: ignore[return-value]  # TypeGuard does not narrow what is left
    number_of = {key: number for number, key in enumerate(sorted(set(map(tuple, labels))))}
    return [number_of[tuple(row)] for row in labels]


def subset(rows: datasets.Dataset, limit: int | None, labels: Labels | None = None) -> datasets.Dataset:
    """Choose rows at random, always the same, and keep their order.

    Args:
        rows: A split.
        limit: Number of rows to choose; all if None, or if there are fewer.
        labels: Class of each row, or its list of classes, if each class must keep a row.
    """
    if limit is None or limit >= len(rows):
        return rows
    kept = np.zeros(len(rows), dtype=np.bool_)
    kept[np.random.RandomState(0).permutation(len(rows))[:limit]] = True
    if labels is not None:
        kept = keep_one_of_each(labels, kept)
    return rows.select(np.flatnonzero(kept))
