"""Load the images to train and evaluate on: splits, columns and class names found, every label checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import datasets
import numpy as np

from ssia_zoo._splits import (
    Part,
    count_rows,
    find_image_column,
    find_label_column,
    find_split,
    load_split,
    name_labels,
    read_labels,
    select_columns,
    split_names,
    stratified,
    subset,
)
from ssia_zoo._streaming import ImageStream
from ssia_zoo._unreadable import UnreadableImages
from ssia_zoo.errors import DataError

if TYPE_CHECKING:
    from ssia_zoo.data import DataConfig

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

    Raises:
        DataError: The data set cannot be found or read, is ambiguous, or has labels that cannot be trained on.
    """
    splits = split_names(config.dataset)
    train_name = find_split(splits, config.train_split, ("train",), "--train-split")
    parts: list[Part] = [(train_name, load_split(config.dataset, train_name, streaming=config.streaming))]
    if not config.holdout:
        eval_name = find_split(splits, config.eval_split, EVAL_SPLITS, "--eval-split")
        features = parts[0][1].features if config.streaming else None  # an image folder is not loaded for its names
        parts.append((eval_name, load_split(config.dataset, eval_name, features=features)))
    for name, rows in parts:
        if isinstance(rows, datasets.Dataset) and len(rows) == 0:
            raise DataError(f"the split {name!r} of {config.dataset!r} is empty; choose another or fill it")
    image_column = find_image_column(parts, config.image_column)
    label_column = find_label_column(parts, config.label_column)
    parts = [(name, select_columns(rows, image_column, label_column)) for name, rows in parts]
    labelled, label_names = name_labels(parts, label_column, config.num_classes)
    train, evaluation = labelled[0], labelled[-1]
    if config.holdout:
        count = round(len(train) * config.holdout)
        held = stratified(read_labels(train, label_column), count)
        if not 0 < count < len(train):
            raise DataError(f"--holdout {config.holdout:g} of {len(train)} images leaves a side empty; choose another")
        train, evaluation = train.select(np.flatnonzero(~held)), train.select(np.flatnonzero(held))
        eval_name = f"holdout {100 * config.holdout:g}% of {train_name}"
    if config.streaming:
        train = _stream(config, train_name, train, image_column, label_column, len(label_names))
    else:
        train = subset(train, config.max_train_images)
    evaluation = subset(evaluation, config.max_eval_images)
    classes = range(len(label_names)) if config.streaming else set(read_labels(train, label_column))
    if len(classes) < 2:
        only = label_names[next(iter(classes))]
        raise DataError(f"all images to train on are of one class, {only!r}; at least two are needed")
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
    that the names are those that training on the folder would give. With `holdout`, the training split is loaded, of
    which the images to evaluate on are a part.

    Raises:
        DataError: The data set cannot be found or read, is ambiguous, or has labels that cannot be evaluated on.
    """
    if config.holdout:
        return load_image_data(config)
    splits = split_names(config.dataset)
    name = find_split(splits, config.eval_split, EVAL_SPLITS, "--eval-split")
    parts: list[Part] = [(name, load_split(config.dataset, name))]
    image_column = find_image_column(parts, config.image_column)
    label_column = find_label_column(parts, config.label_column)
    parts = [(name, select_columns(rows, image_column, label_column)) for name, rows in parts]
    (rows,), label_names = name_labels(parts, label_column, config.num_classes)
    rows = subset(rows, config.max_eval_images)
    return EvalData(
        eval=rows,
        label_names=tuple(label_names),
        image_column=image_column,
        label_column=label_column,
        eval_name=name,
        unreadable_eval=UnreadableImages(name, len(rows), config.max_corrupt),
    )


def _stream(
    config: DataConfig,
    split: str,
    rows: datasets.IterableDataset,
    image_column: str,
    label_column: str,
    num_classes: int,
) -> ImageStream:
    """Find out how many images an epoch has: the schedule and, in several processes, the number of steps need it."""
    known = count_rows(config.dataset, split, rows)
    if known is None and config.max_train_images is None:
        raise DataError(
            f"how many images the stream {split!r} of {config.dataset!r} has is not known before it is read; say how "
            "many make an epoch by --max-train-images, or load it without --streaming"
        )
    length = min(number for number in (known, config.max_train_images) if number is not None)
    rows = rows.cast_column(image_column, datasets.Image(decode=False))
    return ImageStream(rows, image_column, label_column, num_classes, length, config.shuffle_buffer)
