"""Load the images to train and evaluate on: splits, columns and class names found, every label checked."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import datasets
import numpy as np

from ssia_zoo.data.duplicates import ALWAYS_LOOKED_AT, File, count_shared_contents, refuse_shared_files, resolved_files
from ssia_zoo.data.scanning import few, printable
from ssia_zoo.data.sources import FolderSource, Source, open_source
from ssia_zoo.data.splits import (
    Part,
    Rows,
    check_classes_are_trained,
    find_image_column,
    find_label_column,
    find_split,
    keep_one_of_each,
    name_labels,
    read_labels,
    rename_labels,
    select_columns,
    stratified,
    subset,
)
from ssia_zoo.data.streaming import ImageStream
from ssia_zoo.data.unreadable import UnreadableImages
from ssia_zoo.data.messages import is_main_process
from ssia_zoo.errors import DataError

if TYPE_CHECKING:
    from ssia_zoo.data.config import DataConfig

_log = logging.getLogger(__name__)

EVAL_SPLITS = ("validation", "valid", "val", "dev", "test")


@dataclass(frozen=True, kw_only=True)
class EvalData:
    """The images to evaluate on: two columns, an Image and a ClassLabel."""

    eval: datasets.Dataset
    label_names: tuple[str, ...]
    image_column: str
    label_column: str
    eval_name: str
    """What `eval` is, for reports: "test", "holdout 10% of train"."""
    unreadable_eval: UnreadableImages


@dataclass(frozen=True, kw_only=True)
class ImageData(EvalData):
    """The images to train on as well; columns and class names are those of the images to evaluate on."""

    train: datasets.Dataset | ImageStream
    unreadable_train: UnreadableImages


def load_image_data(config: DataConfig) -> ImageData:
    """Find splits, columns and class names, and check every label.

    Logs what was found, and what was left out and why.

    Raises:
        DataError: The data set cannot be found or read, is ambiguous, has labels that cannot be trained on, or files
            that are both trained and evaluated on.
    """
    source = _open(config)
    train_name = _find(source, config.train_split, ("train",), "--train-split")
    parts: list[Part] = [(train_name, source.load(train_name, streaming=config.streaming))]
    eval_name = train_name
    if not config.holdout:
        eval_name = _find(source, config.eval_split, EVAL_SPLITS, "--eval-split")
        features = parts[0][1].features if config.streaming else None  # an image folder is not loaded for its names
        parts.append((eval_name, source.load(eval_name, features=features)))
    image_column, label_column, labelled, label_names = _label(config, parts)
    train, evaluation = labelled[0], labelled[-1]
    if config.holdout:
        train, evaluation = _hold_out(train, config.holdout, label_column, label_names)
        eval_name = f"holdout {100 * config.holdout:g}% of {train_name}"
    elif eval_name != train_name and not config.streaming:
        files = _resolved(source, train_name, train, image_column)
        refuse_shared_files(files, _resolved(source, eval_name, evaluation, image_column), eval_name)
    if config.streaming:
        train = _stream(config, source, train_name, train, image_column, label_column, len(label_names))
    else:
        train = _limit(train, config.max_train_images, label_column)
    evaluation = subset(evaluation, config.max_eval_images)
    _check_classes(train, evaluation, label_column, label_names, (train_name, eval_name))
    unused = [name for name in source.splits() if name not in (train_name, eval_name)]
    _tell(config, source, [(train_name, len(train)), (eval_name, len(evaluation))], label_names, unused)
    if not config.streaming and eval_name != train_name:
        _warn_of_shared_contents(config, train, evaluation, image_column, eval_name)
    return ImageData(
        train=train,
        eval=evaluation,
        label_names=tuple(label_names),
        image_column=image_column,
        label_column=label_column,
        eval_name=eval_name,
        unreadable_train=UnreadableImages("the training images", len(train), config.max_corrupt),
        unreadable_eval=UnreadableImages(eval_name, len(evaluation), config.max_corrupt),
    )


def load_eval_data(config: DataConfig) -> EvalData:
    """Find and load the images to evaluate on, and nothing of the training split.

    The class names are those that the evaluation split itself tells: its ClassLabel's, its sorted strings, or "0" to
    the largest number (or to `num_classes`). They may be fewer than a model has, or in another order: match them by
    name. Of a folder of images, the class folders of the training split are listed as well, without reading them, so
    that the names are those that training on the folder would give. A data set of a single split is evaluated on it,
    unless it is the one to train on. With `holdout`, the training split is loaded, of which the images to evaluate on
    are a part.

    Raises:
        DataError: The data set cannot be found or read, is ambiguous, or has labels that cannot be evaluated on.
    """
    if config.holdout:
        return load_image_data(config)
    source = _open(config)
    eval_name = _find_alone(source, config)
    parts: list[Part] = [(eval_name, source.load(eval_name))]
    image_column, label_column, (rows,), label_names = _label(config, parts)
    train_name = source.find(config.train_split or "train")
    if isinstance(source, FolderSource) and source.has_splits and train_name in source.splits():
        rows, label_names = rename_labels(rows, label_column, source.class_names(train_name))
    rows = subset(rows, config.max_eval_images)
    unused = [name for name in source.splits() if name != eval_name]
    _tell(config, source, [(eval_name, len(rows))], label_names, unused)
    return EvalData(
        eval=rows,
        label_names=tuple(label_names),
        image_column=image_column,
        label_column=label_column,
        eval_name=eval_name,
        unreadable_eval=UnreadableImages(eval_name, len(rows), config.max_corrupt),
    )


# -- what is loaded


def _open(config: DataConfig) -> Source:
    asked = [name for name in (config.train_split, config.eval_split) if name is not None]
    return open_source(config.dataset, config.dataset_config, asked, config.image_column)


def _find(source: Source, asked: str | None, usual: Sequence[str], flag: str) -> str:
    return find_split(source.splits(), None if asked is None else source.find(asked), usual, flag)


def _find_alone(source: Source, config: DataConfig) -> str:
    """The split to evaluate on, whether or not there is one to train on."""
    splits = source.splits()
    unsplit = isinstance(source, FolderSource) and not source.has_splits
    if config.eval_split is None and len(splits) == 1 and (unsplit or splits[0] != "train"):
        return splits[0]
    if config.eval_split is None and splits == ["train"]:
        raise DataError(
            f"{config.dataset!r} has a split to train on alone; evaluate on all of it by --eval-split train, or on the "
            "part that training held out by --holdout"
        )
    return _find(source, config.eval_split, EVAL_SPLITS, "--eval-split")


def _label(config: DataConfig, parts: list[Part]) -> tuple[str, str, list[Rows], list[str]]:
    """The columns of images and labels, the rows with these two alone, and the names of the classes."""
    for name, rows in parts:
        if isinstance(rows, datasets.Dataset) and len(rows) == 0:
            raise DataError(f"the split {name!r} of {config.dataset!r} is empty; choose another or fill it")
    image_column = find_image_column(parts, config.image_column)
    label_column = find_label_column(parts, config.label_column)
    parts = [(name, select_columns(rows, image_column, label_column)) for name, rows in parts]
    labelled, label_names = name_labels(parts, label_column, config.num_classes)
    return image_column, label_column, labelled, label_names


def _hold_out(
    train: datasets.Dataset, fraction: float, column: str, names: Sequence[str]
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Divide the training split, of which each class keeps an image to train on."""
    labels, count = read_labels(train, column), round(len(train) * fraction)
    kept = keep_one_of_each(labels, ~stratified(labels, count))
    if kept.all() or not kept.any():
        raise DataError(f"--holdout {fraction:g} of {len(train)} images leaves a side empty; choose another")
    parts = train.select(np.flatnonzero(kept)), train.select(np.flatnonzero(~kept))
    if missing := sorted(set(labels) - set(read_labels(parts[1], column))):
        _log.warning(
            "%d of %d classes have too few images for --holdout %g and are not evaluated: %s",
            *(len(missing), len(names), fraction, few([names[label] for label in missing])),
        )
    return parts


def _limit(train: datasets.Dataset, limit: int | None, column: str) -> datasets.Dataset:
    classes = len(set(read_labels(train, column)))
    if limit is not None and limit < min(classes, len(train)):
        raise DataError(
            f"--max-train-images {limit} leaves some of {classes} classes without an image; give at least {classes}"
        )
    return subset(train, limit, column)


def _stream(
    config: DataConfig,
    source: Source,
    split: str,
    rows: datasets.IterableDataset,
    image_column: str,
    label_column: str,
    num_classes: int,
) -> ImageStream:
    """Find out how many images an epoch has: the schedule and, in several processes, the number of steps need it."""
    known = source.count(split, rows)
    if known is None and config.max_train_images is None:
        raise DataError(
            f"how many images the stream {split!r} of {config.dataset!r} has is not known before it is read; say how "
            "many make an epoch by --max-train-images, or load it without --streaming"
        )
    length = min(number for number in (known, config.max_train_images) if number is not None)
    rows = rows.cast_column(image_column, datasets.Image(decode=False))
    return ImageStream(rows, image_column, label_column, num_classes, length, config.shuffle_buffer)


# -- what is checked and told


def _check_classes(
    train: Rows, evaluation: datasets.Dataset, column: str, names: Sequence[str], parts: tuple[str, str]
) -> None:
    classes = set(range(len(names))) if isinstance(train, ImageStream) else set(read_labels(train, column))
    if len(classes) < 2:
        raise DataError(f"all images to train on are of one class, {names[min(classes)]!r}; at least two are needed")
    check_classes_are_trained(classes, set(read_labels(evaluation, column)), names, *parts)


def _resolved(source: Source, name: str, rows: datasets.Dataset, column: str) -> list[File]:
    if isinstance(source, FolderSource):  # which has followed the links
        files = source.files(name)
        return list(zip(files.paths, files.resolved, strict=True))
    return resolved_files(rows, column)


def _warn_of_shared_contents(
    config: DataConfig, train: datasets.Dataset, evaluation: datasets.Dataset, column: str, eval_name: str
) -> None:
    if not is_main_process():
        return
    images = len(train) + len(evaluation)
    if images > ALWAYS_LOOKED_AT and not config.check_duplicates:
        _log.info("%d images are not compared between the splits; --check-duplicates looks for equal ones", images)
        return
    count, first = count_shared_contents(train, evaluation, column)
    if count:
        _log.warning(
            "%d of %d images of %r are trained on as well, byte for byte, such as %s; they raise the accuracy",
            *(count, len(evaluation), eval_name, printable(first)),
        )


def _tell(
    config: DataConfig, source: Source, splits: Sequence[tuple[str, int]], names: Sequence[str], unused: Sequence[str]
) -> None:
    """Say what was found, and what of it is not used and why."""
    if not is_main_process():
        return
    found = ", ".join(f"{count} images of {split}" for split, count in splits)
    _log.info(
        "%s: %s, %d classes%s", config.dataset, found, len(names), f" (not used: {', '.join(unused)})" if unused else ""
    )
    if isinstance(source, FolderSource) and (left_out := source.left_out()):
        _log.warning("%s: left out %s", config.dataset, left_out)
