"""Write the images that a plan asks for, as parquet files with the splits train, validation and test."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt

from ssia_zoo.arena.plan import Settings
from ssia_zoo.data import digits
from ssia_zoo.errors import DataError, did_you_mean, one_line

Rows = npt.NDArray[np.int64]

COARSE = "coarse"
"""Column of the coarser classes within which `exchanged` changes labels."""


def subset_folder(subset: Settings, root: Path) -> Path:
    """Return the folder of a subset, which is named after the data set and a hash of the choice."""
    name = re.sub(r"[^\w.-]+", "-", str(subset["dataset"]))
    return root / f"{name}_{hashlib.sha256(json.dumps(subset, sort_keys=True).encode()).hexdigest()[:8]}"


def check_source(name: str, data_root: Path | None) -> None:
    """Check that a data set exists, as far as that can be seen without loading it.

    Raises:
        DataError: It is neither a folder in the data root, nor digits, nor a Hub id.
    """
    if data_root is not None and not data_root.is_dir():
        raise DataError(f"`data_root` {data_root} is not a folder")
    if (data_root is not None and (data_root / name).is_dir()) or name == "digits" or name.count("/") == 1:
        return
    if data_root is None:
        raise DataError(
            f"dataset {name!r} is neither digits nor a Hub id; give the folder that contains it, `data_root`"
        )
    found = sorted(path.name for path in data_root.iterdir() if path.is_dir())
    hint = did_you_mean(name, found, f"it has {', '.join(found) or 'no folders'}")
    raise DataError(f"dataset {name!r} is not a folder in {data_root}; {hint}")


def load_splits(name: str, data_root: Path | None) -> datasets.DatasetDict:
    """Load a data set: a folder in the data root, scikit-learn's digits, or a Hub id.

    Raises:
        DataError: It cannot be read.
    """
    check_source(name, data_root)
    folder = None if data_root is None else data_root / name
    if name == "digits" and (folder is None or not folder.is_dir()):
        return digits()
    source = str(folder) if folder is not None and folder.is_dir() else name
    try:
        return datasets.load_dataset(source)
    except Exception as error:  # datasets raises many types
        raise DataError(f"dataset {name!r} cannot be read: {one_line(error, 200)}") from error


def check_unchanged(name: str, data_root: Path | None, folder: Path) -> None:
    """Check that a subset was made from the files that the data set has now; one of an older version is not checked.

    Raises:
        DataError: It was not.
    """
    path = _sources_file(folder)
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) != _sources(name, data_root):
        raise DataError(
            f"{folder} was made from other files than dataset {name!r} has now (other names, sizes or times): "
            "delete it, or set another `work` and `records`"
        )


def write_sources(name: str, data_root: Path | None, folder: Path) -> None:
    """Note beside a subset from which files it was made."""
    _sources_file(folder).write_text(json.dumps(_sources(name, data_root)), encoding="utf-8")


def _sources_file(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.sources.json")


def _sources(name: str, data_root: Path | None) -> dict[str, list[int]]:
    """Return size and time of each file of a local data set, by its path; of another one nothing."""
    if data_root is None or not (data_root / name).is_dir():
        return {}
    folder = data_root / name
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): [path.stat().st_size, path.stat().st_mtime_ns] for path in files}


def make_subset(splits: datasets.DatasetDict, subset: Settings, target: Path) -> None:
    """Write a subset's splits train, validation and test as parquet files; which images are kept is reproducible.

    Args:
        splits: A training split and an official test split.
        subset: `dataset` (its name); `classes` (number of classes, all by default); `train_per_class` and
            `validation_per_class` (images of the training split; by default the data set's own splits are kept);
            `train_labels` (the column to train on, such as noisy human labels; evaluation uses the clean ones);
            `exchanged` (share of the training images that get the label of another class of the same `coarse` class).
        target: Folder to write.

    Raises:
        DataError: The data set lacks a split, column or images that the subset needs.
    """
    label = _label_column(splits, subset)
    names = splits["train"].features[label].names
    kept = np.sort(np.random.RandomState(0).permutation(len(names))[: subset.get("classes")])
    renumbered = {int(old): new for new, old in enumerate(kept)}
    feature = datasets.ClassLabel(names=[names[old] for old in kept])
    temporary = target.with_name(f"{target.name}.unfinished")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, (split, rows) in _chosen_rows(splits, label, kept, subset).items():
        part = splits[split].select(rows)
        labels = part[subset.get("train_labels", label) if name == "train" else label]
        if name == "train" and "exchanged" in subset:
            labels = _exchanged(np.asarray(labels), np.asarray(part[COARSE]), subset["exchanged"])
        if others := sorted({int(old) for old in labels} - renumbered.keys()):
            raise DataError(
                f"dataset {subset['dataset']!r}: images of the {len(kept)} classes have labels of others in "
                f"train_labels, such as {names[others[0]]!r}; leave out classes, or train_labels"
            )
        labels = [renumbered[int(old)] for old in labels]
        part = part.select_columns(["image"]).add_column(label, labels, feature=feature)
        part.to_parquet(str(temporary / f"{name}.parquet"))
    temporary.rename(target)


def _label_column(splits: datasets.DatasetDict, subset: Settings) -> str:
    """Return the column of the classes, after a check of what the subset needs."""
    name = subset["dataset"]
    if "train" not in splits or not {"test", "validation"} & set(splits):
        raise DataError(f"dataset {name!r} has the splits {', '.join(splits)}; expected train, and test or validation")
    features = splits["train"].features
    columns = [str(column) for column, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    if not columns or "image" not in features:
        raise DataError(f"dataset {name!r} has the columns {', '.join(features)}; expected image and one of classes")
    used = [("train_labels", subset.get("train_labels")), ("exchanged", COARSE)]
    for needed in (str(column) for key, column in used if key in subset):
        if needed not in features:
            hint = did_you_mean(needed, features, f"it has {', '.join(features)}")
            raise DataError(f"dataset {name!r} has no column {needed!r}; {hint}")
    label = columns[0]
    if (classes := subset.get("classes", 0)) > len(features[label].names):
        raise DataError(f"dataset {name!r} has {len(features[label].names)} classes; the plan asks for {classes}")
    return label


def _chosen_rows(splits: datasets.DatasetDict, label: str, kept: Rows, subset: Settings) -> dict[str, tuple[str, Rows]]:
    """Return for train, validation and test the source split and its rows."""
    if "train_per_class" not in subset:
        if "classes" not in subset:
            return {name: (name, np.arange(len(rows))) for name, rows in splits.items()}
        return {name: (name, np.sort(np.concatenate(_rows_by_class(s[label], kept)))) for name, s in splits.items()}
    official = "test" if "test" in splits else "validation"
    train, ends = _rows_by_class(splits["train"][label], kept), subset["train_per_class"]
    validation = [rows[ends : ends + subset["validation_per_class"]] for rows in train]
    if any(len(rows) < subset["validation_per_class"] for rows in validation):
        asked = ends + subset["validation_per_class"]
        raise DataError(
            f"dataset {subset['dataset']!r} has a class of {min(map(len, train))} training images; the plan asks for "
            f"{asked}, train_per_class and validation_per_class together"
        )
    return {
        "train": ("train", np.sort(np.concatenate([rows[:ends] for rows in train]))),
        "validation": ("train", np.sort(np.concatenate(validation))),
        "test": (official, np.sort(np.concatenate(_rows_by_class(splits[official][label], kept)))),
    }


def _exchanged(labels: Rows, coarse: Rows, share: float) -> Rows:
    """Relabel a share of the images with another class of the same coarse class, if there is one."""
    random = np.random.RandomState(0)
    wrong = labels.copy()
    for row in random.permutation(len(labels))[: round(share * len(labels))]:
        others = np.setdiff1d(labels[coarse == coarse[row]], labels[row])
        if len(others):
            wrong[row] = random.choice(others)
    return wrong


def _rows_by_class(labels: Any, kept: Rows) -> list[Rows]:
    random = np.random.RandomState(0)
    return [random.permutation(np.flatnonzero(np.asarray(labels) == c)) for c in kept]
