"""Weights of the classes in the loss, from the number of training images of each class or from a file."""

from __future__ import annotations

import csv
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import yaml
from torch import Tensor

from ssia_zoo.data import ImageData, ImageStream
from ssia_zoo.data.labels import read_labels
from ssia_zoo.data.messages import abbreviate
from ssia_zoo.errors import ConfigError, did_you_mean, one_line
from ssia_zoo.training.config import TrainConfig

_log = logging.getLogger(__name__)

_UNEVEN = 10
"""Ratio of the most to the least frequent class from which a run names the settings against it."""

Pairs = list[tuple[str, str]]
"""Class names and their weights, as they are written."""


def class_weights(config: TrainConfig, data: ImageData) -> Tensor | None:
    """Return the weight of each class [C] in the loss, or None if all images count equally.

    "auto" is N / (C * n_c) for a class with n_c of N training images of C classes: inversely proportional to its
    frequency, with mean 1 over the images. This is scikit-learn's "balanced" (King & Zeng, "Logistic Regression in Rare
    Events Data", 2001). Weights from a file are used as they are.

    Raises:
        ConfigError: The file cannot be read or does not fit the classes, or the labels of a stream are needed.
    """
    if config.class_weights is None:
        return None
    if config.class_weights != "auto":
        return torch.tensor(_read_weights(Path(config.class_weights), data.label_names))
    counts = _count(data)
    if counts is None:
        raise ConfigError(
            "`class_weights` auto needs all labels before training, which a stream lacks; give a file of weights, or "
            "leave out `streaming`"
        )
    weights = counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return torch.tensor(weights, dtype=torch.float32)


def report_imbalance(config: TrainConfig, data: ImageData) -> None:
    """Log that the classes are uneven, if they are by far and no setting is used against it."""
    counts = _count(data)
    if counts is None or config.balanced_sampling or config.class_weights is not None:
        return
    most, least = int(counts.argmax()), int(np.where(counts > 0, counts, counts.max()).argmin())
    if counts[most] >= _UNEVEN * counts[least]:
        _log.info(
            "classes are uneven: %d training images of %s, %d of %s; `balanced_sampling` or `class_weights` auto gives "
            "all classes the same share of the training",
            *(counts[most], data.label_names[most], counts[least], data.label_names[least]),
        )


def _count(data: ImageData) -> npt.NDArray[np.int64] | None:
    """Count the training images of each class; None for a stream, or several labels an image."""
    if isinstance(data.train, ImageStream) or data.multi_label:
        return None
    return np.bincount(read_labels(data.train, data.label_column), minlength=len(data.label_names))


def _read_weights(path: Path, names: Sequence[str]) -> list[float]:
    """Read the weight of each class by its name."""
    start = f"`class_weights` {path}:"
    try:
        pairs = _read_pairs(path, names)
    except OSError as error:
        expected = "expected auto, or a CSV, JSON or YAML file of classes and weights"
        raise ConfigError(f"{start} cannot be read ({error.strerror}); {expected}") from error
    except (ValueError, yaml.YAMLError, csv.Error) as error:
        raise ConfigError(f"{start} is not a list of classes and weights: {one_line(error, 200)}") from error
    weights: dict[str, float] = {}
    for name, text in pairs:
        if name not in names:
            raise ConfigError(f"{start} {name!r} is not a class; {did_you_mean(name, names, 'remove it')}")
        if name in weights:
            raise ConfigError(f"{start} {name!r} has two weights; remove one")
        weights[name] = _number(text)
        if not 0 <= weights[name] < math.inf:
            raise ConfigError(f"{start} {name!r} has the weight {text}; expected a number of 0 or more")
    if missing := [name for name in names if name not in weights]:
        raise ConfigError(f"{start} {len(missing)} of {len(names)} classes have no weight: {abbreviate(missing)}")
    if not any(weights.values()):
        raise ConfigError(f"{start} all weights are 0; expected at least one above 0")
    return [weights[name] for name in names]


def _read_pairs(path: Path, names: Sequence[str]) -> Pairs:
    text = path.read_text(encoding="utf-8-sig")
    kind = path.suffix.lower()
    if kind == ".csv":
        rows = [row for row in csv.reader(text.splitlines(), strict=True) if row]
        if wrong := next((row for row in rows if len(row) != 2), None):
            raise ValueError(f"{','.join(wrong)!r} has {len(wrong)} columns, expected class,weight")
        header = bool(rows) and rows[0][0] not in names and math.isnan(_number(rows[0][1]))
        return [(row[0], row[1]) for row in rows[header:]]
    if kind == ".json":
        mapping = json.loads(text, object_pairs_hook=tuple)
        if not isinstance(mapping, tuple):
            raise ValueError('expected {"class": weight, ...}')
        return [(name, str(value)) for name, value in mapping]
    if kind in (".yaml", ".yml"):
        node = yaml.compose(text, yaml.SafeLoader)
        if not isinstance(node, yaml.MappingNode):
            raise ValueError("expected lines of class: weight")
        return [(str(key.value), str(value.value)) for key, value in node.value]
    raise ValueError(f"the suffix is {kind!r}, expected .csv, .json or .yaml")


def _number(text: str) -> float:
    """Read a number; NaN for other text."""
    try:
        return float(text)
    except ValueError:
        return math.nan
