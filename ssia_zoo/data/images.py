"""Load the training and evaluation images: find splits, columns and class names, and check every label."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

import datasets
import numpy as np
from accelerate.utils import gather_object

from ssia_zoo.data.columns import Part, Rows, find_image_column, find_label_column, select_columns
from ssia_zoo.data.config import DataConfig
from ssia_zoo.data.duplicates import ALWAYS_COMPARED, File, count_shared_contents, refuse_shared_files, resolved_files
from ssia_zoo.data.encoded import split_digest
from ssia_zoo.data.folders import FolderSource
from ssia_zoo.data.image_files import ImageFilesSource
from ssia_zoo.data.label_lists import is_multi_label, name_all_labels, read_classes
from ssia_zoo.data.labels import check_classes_are_trained, read_labels, rename_labels
from ssia_zoo.data.messages import abbreviate, is_main_process, printable
from ssia_zoo.data.sources import Source, open_source
from ssia_zoo.data.splits import find_split, keep_one_of_each, stratified, subset
from ssia_zoo.data.streaming import ImageStream
from ssia_zoo.data.unreadable import UnreadableImages
from ssia_zoo.errors import DataError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EvalData:
    """Images to evaluate on, in two columns: an Image and a ClassLabel, or a list of ClassLabels."""

    eval: datasets.Dataset
    label_names: tuple[str, ...]
    image_column: str
    label_column: str
    eval_name: str
    """Name of `eval` for reports: "test", "holdout 10% of train"."""
    unreadable_eval: UnreadableImages

    @property
    def multi_label(self) -> bool:
        """Whether an image has a list of labels."""
        return is_multi_label(self.eval, self.label_column)


@dataclass(frozen=True, kw_only=True)
class ImageData(EvalData):
    """Images to train and evaluate on, with the same columns and class names."""

    train: datasets.Dataset | ImageStream
    unreadable_train: UnreadableImages
    unused_splits: tuple[str, ...] = ()
    """Names of the other splits."""


def load_image_data(config: DataConfig) -> ImageData:
    """Load the training and the evaluation split.

    Logs the splits and classes that were found, and the files that are not used, with reasons.

    Raises:
        DataError: The data set cannot be found or read, is ambiguous, has invalid labels, or has files that are in
            both splits.
    """
    source = open_source(config)
    train_name = _find(source, config.train_split, "train_split")
    parts: list[Part] = [(train_name, source.load(train_name, streaming=config.streaming))]
    eval_name = train_name
    if not config.holdout:
        eval_name = _find(source, config.eval_split, "eval_split")
        if eval_name == train_name:
            raise DataError(
                f"`eval_split` {config.eval_split or eval_name} is the training split of {config.dataset!r}; "
                "set another one, or `holdout` 0.1"
            )
        features = parts[0][1].features if config.streaming else None  # else an image folder loads its own classes
        parts.append((eval_name, source.load(eval_name, features=features)))
    image_column, label_column, labelled, label_names = _with_named_labels(config, parts)
    train, evaluation = labelled[0], labelled[-1]
    if config.holdout:
        train, evaluation = _hold_out(train, config.holdout, label_column, label_names)
        eval_name = f"holdout {100 * config.holdout:g}% of {train_name}"
    elif not config.streaming or isinstance(source, ImageFilesSource):
        files = _resolved(source, train_name, train, image_column)
        refuse_shared_files(files, _resolved(source, eval_name, evaluation, image_column), eval_name)
    if config.streaming:
        train = _stream(config, source, train_name, train, image_column, label_column, len(label_names))
    else:
        train = _limit(train, config.max_train_images, label_column)
    evaluation = subset(evaluation, config.max_eval_images)
    _check_classes(train, evaluation, label_column, label_names, (train_name, eval_name))
    unused = [name for name in source.splits() if name not in (train_name, eval_name)]
    _log_summary(
        config,
        source,
        [(train_name, len(train)), (eval_name, len(evaluation))],
        label_names,
        unused,
        is_multi_label(evaluation, label_column),
    )
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
        unused_splits=tuple(unused),
        unreadable_eval=UnreadableImages(eval_name, len(evaluation), config.max_corrupt),
    )


def load_eval_data(config: DataConfig) -> EvalData:
    """Load the evaluation split alone.

    The class names are those of the evaluation split: of its ClassLabel, its sorted strings, or "0" to the largest
    number (or to `num_classes`). They may be fewer than a model's or in another order, so match them by name. For a
    folder of images, the class folders of the training split are listed as well, which gives the names of training.
    The only split of a data set is taken, unless it is called train. With `holdout`, the training split is loaded and
    divided.

    Raises:
        DataError: The data set cannot be found or read, is ambiguous, or has invalid labels.
    """
    if config.holdout:
        return load_image_data(config)
    source = open_source(config)
    eval_name = _find_eval_split(source, config)
    parts: list[Part] = [(eval_name, source.load(eval_name))]
    image_column, label_column, (rows,), label_names = _with_named_labels(config, parts)
    train_name = source.find(config.train_split or "train")
    if isinstance(source, FolderSource) and source.has_splits and train_name in source.splits():
        rows, label_names = rename_labels(rows, label_column, source.class_names(train_name))
    rows = subset(rows, config.max_eval_images)
    unused = [name for name in source.splits() if name != eval_name]
    _log_summary(config, source, [(eval_name, len(rows))], label_names, unused, is_multi_label(rows, label_column))
    return EvalData(
        eval=rows,
        label_names=tuple(label_names),
        image_column=image_column,
        label_column=label_column,
        eval_name=eval_name,
        unreadable_eval=UnreadableImages(eval_name, len(rows), config.max_corrupt),
    )


def split_names(config: DataConfig) -> list[str]:
    """Return the names of a data set's splits.

    Raises:
        DataError: The data set cannot be found or read.
    """
    return list(open_source(config).splits())


def data_identity(data: ImageData) -> dict[str, Any]:
    """Identify data sets by their numbers of images, class names and digests, without decoding an image.

    A digest covers the names, byte sizes and labels of a split's images. It does not depend on the process, or on the
    folder of the data set. For a stream, it covers the number of images, and what is known without reading them: names
    and sizes of files (of image files labels, too).

    Returns:
        "train_images" and "eval_images", "label_names" (a list), "train_digest" and "eval_digest" (hexadecimal
        digits), to be written as JSON.
    """
    columns = (data.image_column, data.label_column)
    return {
        "train_images": len(data.train),
        "eval_images": len(data.eval),
        "label_names": list(data.label_names),
        "train_digest": sha256(f"stream of {len(data.train)}: {data.train.identity}".encode()).hexdigest()
        if isinstance(data.train, ImageStream)
        else split_digest(data.train, *columns),
        "eval_digest": split_digest(data.eval, *columns),
    }


def warn_of_classes_not_streamed(data: ImageData) -> None:
    """Warn of evaluated classes of which a streamed training split had no image so far; each process must call it."""
    if not isinstance(data.train, ImageStream):
        return
    evaluated = read_classes(data.eval, data.label_column)
    read = set(gather_object(sorted(data.train.labels_read)))
    if (missing := sorted(evaluated - read)) and is_main_process():
        _log.warning(
            "%d of %d evaluated classes had no training image in the first epoch of the stream: %s; shuffle the data "
            "when writing it, or raise `shuffle_buffer` or `max_train_images`",
            *(len(missing), len(evaluated), abbreviate([data.label_names[label] for label in missing])),
        )


# -- loading


def _find(source: Source, given: str | None, setting: Literal["train_split", "eval_split"]) -> str:
    return find_split(source.splits(), None if given is None else source.find(given), setting)


def _find_eval_split(source: Source, config: DataConfig) -> str:
    """Return the split to evaluate on where no training split is needed."""
    splits = source.splits()
    unsplit = isinstance(source, ImageFilesSource) and not source.has_splits
    if config.eval_split is None and len(splits) == 1 and (unsplit or splits[0] != "train"):
        if unsplit and is_main_process():
            _log.warning(
                "%r has no splits, so all of its images are evaluated; if the model was trained on them, set `holdout` "
                "as in its training",
                config.dataset,
            )
        return splits[0]
    if config.eval_split is None and splits == ["train"]:
        raise DataError(
            f"{config.dataset!r} has only a training split; set `eval_split` to train to evaluate on all of it, or set "
            "`holdout` to evaluate on the part that training held out"
        )
    return _find(source, config.eval_split, "eval_split")


def _with_named_labels(config: DataConfig, parts: list[Part]) -> tuple[str, str, list[Rows], list[str]]:
    """Return the columns of images and labels, the rows with these columns alone, and the class names."""
    for name, rows in parts:
        if isinstance(rows, datasets.Dataset) and len(rows) == 0:
            raise DataError(f"the split {name!r} of {config.dataset!r} is empty; choose another or add images")
    image_column = find_image_column(parts, config.image_column)
    label_column = find_label_column(parts, config.label_column)
    parts = [(name, select_columns(rows, image_column, label_column)) for name, rows in parts]
    labelled, label_names = name_all_labels(parts, label_column, config.num_classes, config.label_separator)
    return image_column, label_column, labelled, label_names


def _hold_out(
    train: datasets.Dataset, fraction: float, column: str, names: Sequence[str]
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Divide the training split so that each class keeps a training image."""
    labels, count = read_labels(train, column), round(len(train) * fraction)
    kept = keep_one_of_each(labels, ~stratified(labels, count))
    if kept.all() or not kept.any():
        raise DataError(f"`holdout` {fraction:g} of {len(train)} images leaves one part empty; choose another")
    parts = train.select(np.flatnonzero(kept)), train.select(np.flatnonzero(~kept))
    if missing := sorted(read_classes(train, column) - read_classes(parts[1], column)):
        _log.warning(
            "%d of %d classes have too few images for `holdout` %g and are not evaluated: %s",
            *(len(missing), len(names), fraction, abbreviate([names[label] for label in missing])),
        )
    return parts


def _limit(train: datasets.Dataset, limit: int | None, column: str) -> datasets.Dataset:
    if limit is None:
        return train
    labels = read_labels(train, column)
    classes = len(read_classes(train, column))
    if limit < min(classes, len(train)):
        raise DataError(
            f"`max_train_images` is {limit}, which leaves some of {classes} classes without an image; give at least "
            f"{classes}"
        )
    return subset(train, limit, labels)


def _stream(
    config: DataConfig,
    source: Source,
    split: str,
    rows: datasets.IterableDataset,
    image_column: str,
    label_column: str,
    num_classes: int,
) -> ImageStream:
    """Build the stream with the length of its epoch, on which the schedule and the number of steps depend."""
    known = source.count(split, rows)
    if known is None and config.max_train_images is None:
        raise DataError(
            f"the number of images in the stream {split!r} of {config.dataset!r} is unknown before it is read; set "
            "`max_train_images` to the number per epoch, or leave out `streaming`"
        )
    length = min(number for number in (known, config.max_train_images) if number is not None)
    rows = rows.cast_column(image_column, datasets.Image(decode=False))
    identity = source.identity(split)
    return ImageStream(rows, image_column, label_column, num_classes, length, config.shuffle_buffer, identity)


# -- checks and log


def _check_classes(
    train: Rows, evaluation: datasets.Dataset, column: str, names: Sequence[str], parts: tuple[str, str]
) -> None:
    classes = set(range(len(names))) if isinstance(train, ImageStream) else read_classes(train, column)
    if len(classes) < 2:
        raise DataError(f"all training images are of one class, {names[min(classes)]!r}; at least two are needed")
    check_classes_are_trained(classes, read_classes(evaluation, column), names, *parts)


def _resolved(source: Source, name: str, rows: Rows, column: str) -> list[File]:
    if isinstance(source, ImageFilesSource):  # has resolved the links already
        files = source.files(name)
        return list(zip(files.paths, files.resolved, strict=True))
    assert isinstance(rows, datasets.Dataset)
    return resolved_files(rows, column)


def _warn_of_shared_contents(
    config: DataConfig, train: datasets.Dataset, evaluation: datasets.Dataset, column: str, eval_name: str
) -> None:
    if not is_main_process():
        return
    images = len(train) + len(evaluation)
    if images > ALWAYS_COMPARED and not config.check_duplicates:
        _log.info("%d images are not compared between the splits; set `check_duplicates` to find equal ones", images)
        return
    count, first = count_shared_contents(train, evaluation, column)
    if count:
        _log.warning(
            "%d of %d images of %r equal a training image byte for byte, such as %s; this raises the accuracy",
            *(count, len(evaluation), eval_name, printable(first)),
        )


def _log_summary(
    config: DataConfig,
    source: Source,
    splits: Sequence[tuple[str, int]],
    names: Sequence[str],
    unused: Sequence[str],
    multi_label: bool,
) -> None:
    if not is_main_process():
        return
    found = ", ".join(f"{count} images of {split}" for split, count in splits)
    several = ", several labels an image" if multi_label else ""
    rest = f" (not used: {', '.join(unused)})" if unused else ""
    _log.info("%s: %s, %d classes%s%s", config.dataset, found, len(names), several, rest)
    if isinstance(source, ImageFilesSource) and (skipped := source.skipped()):
        _log.warning("%s: left out %s", config.dataset, skipped)
