"""Finding a data set by its name, and in it the splits, the columns and the names of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import PIL.Image

from ssia_zoo.errors import DataError

# A split's name and its rows.
Part = tuple[str, datasets.Dataset]


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


def load_splits(name: str) -> datasets.DatasetDict:
    """Loads "digits", a folder that exists, or else a data set of the Hub."""
    if name == "digits":
        return digits()
    path = Path(name).expanduser()
    if path.is_file():
        raise DataError(f"the data set {name!r} is a file; give the folder that it is in")
    if not path.is_dir() and (path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1):
        raise DataError(f"the data set folder {name!r} does not exist; give an existing folder, a Hub id or 'digits'")
    try:
        return datasets.load_dataset(str(path.resolve()) if path.is_dir() else name)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        # A DatasetGenerationError only says that there was an error; its cause says which.
        reason = " ".join(str(error.__cause__ or error).split())[:300]
        advice = (
            "check the files in this folder"
            if path.is_dir()
            else "check the id and the network, log in by 'hf auth login' if it is gated or private, or give a folder"
        )
        raise DataError(f"the data set {name!r} cannot be loaded ({reason}); {advice}") from error


def find_split(splits: datasets.DatasetDict, asked: str | None, usual: Sequence[str], flag: str) -> str:
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
    features = parts[0][1].features
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    return _column(parts, asked, images, "--image-column", "image")


def find_label_column(parts: Sequence[Part], asked: str | None) -> str:
    """Returns the column asked for, or the only one of class labels, or "label" or "labels"."""
    features = parts[0][1].features
    labels = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    labels = labels or [name for name in ("label", "labels") if name in features]
    if asked is not None:
        labels = [name for name, feature in features.items() if not isinstance(feature, datasets.Image)]
    return _column(parts, asked, labels, "--label-column", "label")


def _column(parts: Sequence[Part], asked: str | None, candidates: list[str], flag: str, what: str) -> str:
    """Returns the column asked for, or the only candidate; it is in every part."""
    if asked is None and len(candidates) > 1:
        raise DataError(f"there are several {what} columns; choose one by {flag}: {', '.join(candidates)}")
    if asked is None and not candidates:
        raise DataError(f"no {what} column was found among {', '.join(parts[0][1].features)}; name it by {flag}")
    name = candidates[0] if asked is None else asked
    if name not in candidates:
        raise DataError(f"{flag} {name!r} is not a column of {what}s; found: {', '.join(candidates) or 'none'}")
    for split, rows in parts:
        if name not in rows.features:
            raise DataError(f"the split {split!r} has no column {name!r}; name a column of both splits by {flag}")
    return name


def read_labels(rows: datasets.Dataset, column: str) -> list[Any]:
    """Reads a column of labels, whole."""
    values: list[Any] = rows.select_columns([column]).with_format("arrow")[:][column].to_pylist()
    return values


def name_labels(parts: Sequence[Part], column: str) -> tuple[list[datasets.Dataset], tuple[str, ...]]:
    """Makes the labels ClassLabels of common names: their own, the sorted strings, or "0" to the largest number."""
    features = [rows.features[column] for _, rows in parts]
    values = [read_labels(rows, column) for _, rows in parts]
    for (split, _), labels in zip(parts, values, strict=True):
        if None in labels:
            raise DataError(f"row {labels.index(None)} of {split!r} has no {column}; label it or remove it")
    types = [f.dtype if isinstance(f, datasets.Value) else type(f).__name__ for f in features]
    kinds = {"int" if t == "bool" else t.removeprefix("large_").removeprefix("u").rstrip("0123456789") for t in types}
    if kinds == {"ClassLabel"}:
        names = list(features[0].names)
        if names != features[-1].names:
            raise DataError(
                f"the splits {parts[0][0]!r} and {parts[-1][0]!r} name different classes in {column!r} "
                f"({_few(names)}; {_few(features[-1].names)}); use splits with the same classes"
            )
        encoded = values
    elif kinds == {"string"}:
        names = sorted({label for labels in values for label in labels})
        numbers = {name: number for number, name in enumerate(names)}
        encoded = [[numbers[label] for label in labels] for labels in values]
    elif kinds == {"int"}:
        encoded = [[int(label) for label in labels] for labels in values]
        names = [str(number) for number in range(max(max(labels) for labels in encoded) + 1)]
    else:
        raise DataError(
            f"the column {column!r} holds {' and '.join(types)}; classes are ClassLabels, strings or integers, "
            "the same in all splits: choose another by --label-column"
        )
    for (split, _), labels in zip(parts, encoded, strict=True):
        for row, label in enumerate(labels):
            if not 0 <= label < len(names):
                expected = f"expected 0 to {len(names) - 1}" if names else "expected 0 or more"
                raise DataError(f"row {row} of {split!r} has the {column} {label}; {expected}: label or remove it")
    feature = datasets.ClassLabel(names=names)
    if kinds == {"ClassLabel"}:
        return [rows for _, rows in parts], tuple(names)
    # Replacing the column is free; casting it would write every image anew.
    return [
        rows.remove_columns(column).add_column(column, labels, feature=feature)
        for (_, rows), labels in zip(parts, encoded, strict=True)
    ], tuple(names)


def _few(names: Sequence[str]) -> str:
    return f"{len(names)}: {', '.join(names[:3])}{', …' if len(names) > 3 else ''}"


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
