"""Match the outputs of a model to the classes of a data set, by name if both have names."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from timm.data import ImageNetInfo, infer_imagenet_subset

from ssia_zoo.errors import ClassesError, did_you_mean
from ssia_zoo.hub.files import is_index

_log = logging.getLogger(__name__)

_NUMBERED = re.compile(r"(?:(?:class|label)[ _-]?)?0*(\d+)", re.IGNORECASE)
_MOST_NAMED = 3


def read_label_names(cfg: Mapping[str, Any], num_classes: int) -> tuple[str, ...] | None:
    """Read the names of a model's classes, in the order of its outputs.

    Args:
        cfg: A `pretrained_cfg`; its `label_names` may be a list, or a mapping from index to name with gaps.
        num_classes: Number of outputs of the model.

    Returns:
        One name per class, "class 3" for a gap; None if there are none, or their number differs.
    """
    names = cfg.get("label_names") or ()
    if isinstance(names, Mapping):
        by_index = {int(index): str(name) for index, name in names.items() if is_index(index, num_classes)}
        complete = by_index and len(by_index) == len(names)
        return tuple(by_index.get(index, f"class {index}") for index in range(num_classes)) if complete else None
    return tuple(map(str, names)) if len(names) == num_classes else None


MULTI_LABEL = "multi_label_classification"
"""Value of "problem_type" in config.json, as transformers names it, for models of several labels an image."""

_THRESHOLD = "_multi_label_threshold"


def set_problem_type(model: Any, config: Mapping[str, Any]) -> None:
    """Record on a model what its config.json says about several labels an image.

    Args:
        model: A timm classifier.
        config: Content of config.json: "problem_type", and "threshold", 0.5 if it is missing or no probability.
    """
    if config.get("problem_type") == MULTI_LABEL:
        threshold = config.get("threshold")
        setattr(model, _THRESHOLD, threshold if isinstance(threshold, float) and 0 < threshold < 1 else 0.5)


def multi_label_threshold(model: Any) -> float | None:
    """Return the probability from which a class counts as predicted; None for a model of one label an image."""
    threshold: float | None = getattr(model, _THRESHOLD, None)
    return threshold


def describe_labels(cfg: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...] | None:
    """Return the descriptions of classes; None if `label_descriptions` lacks one."""
    descriptions = cfg.get("label_descriptions")
    if not isinstance(descriptions, Mapping) or not all(name in descriptions for name in names):
        return None
    return tuple(str(descriptions[name]) for name in names)


def imagenet_names(model: Any) -> list[tuple[str, ...]]:
    """Return ImageNet's WordNet ids, descriptions and first synonyms, if timm recognizes an ImageNet classifier."""
    cfg = getattr(model, "pretrained_cfg", None) or {}
    subset = infer_imagenet_subset(model) if cfg.get("num_classes") == model.num_classes else None
    if subset is None or cfg.get("label_names"):
        return []
    info = ImageNetInfo(subset)
    descriptions = tuple(info.label_descriptions())
    return [tuple(info.label_names()), descriptions, tuple(text.split(", ")[0] for text in descriptions)]


def match_model(
    model: Any,
    data_names: Sequence[str],
    dataset: str,
    used: Collection[int] | None = None,
    *,
    by_position: bool = True,
) -> tuple[int, ...] | None:
    """Match the outputs of a timm classifier to a data set's classes, and log how they were matched.

    The names are the model's own, or those of ImageNet for timm's ImageNet classifiers.

    Args:
        model: A timm classifier.
        data_names: The data set's classes, in the order of its labels.
        dataset: Name of the data set, for messages.
        used: Labels that occur in the data; other classes need not be the model's. All if None.
        by_position: Whether to match by position if names are missing; else that is an error.

    Returns:
        The model's output for each class of the data, -1 for a class without images that the model lacks; None if
        outputs and classes are the same in the same order.

    Raises:
        ClassesError: If the classes of the data are not the model's.
    """
    cfg = getattr(model, "pretrained_cfg", None) or {}
    needed = set(data_names) if used is None else {data_names[label] for label in used}
    names = read_label_names(cfg, model.num_classes)
    candidates = imagenet_names(model) if names is None else [names]
    if names is not None and (described := describe_labels(cfg, names)) is not None:
        candidates.append(described)
    best = max(candidates, key=lambda names: len(needed & set(names)), default=None)
    if names is None and best is not None and not needed <= set(best) and len(data_names) == model.num_classes:
        best = None  # the model probably has other classes than ImageNet's, as many as the data
    rows = match_labels(best, data_names, dataset, used=used, num_classes=model.num_classes, by_position=by_position)
    return None if rows == tuple(range(model.num_classes)) else rows


def match_labels(
    model_names: Sequence[str] | None,
    data_names: Sequence[str],
    dataset: str = "the data",
    *,
    used: Collection[int] | None = None,
    num_classes: int | None = None,
    by_position: bool = True,
) -> tuple[int, ...]:
    """Match a model's outputs to the classes of a data set; arguments and result are those of `match_model`.

    Names that only count ("0", "1", …, "class 0", …) are treated as missing: the match is then by position, with a
    warning.

    Args:
        model_names: One name per output, or None if they are not known.
        data_names: The data set's classes.
        dataset: Name of the data set, for messages.
        used: Labels that occur in the data.
        num_classes: Number of outputs, if `model_names` is None.
        by_position: Whether to match by position if names are missing.

    Raises:
        ClassesError: If the model lacks a class of the data, or names are missing and the numbers of classes differ
            or a match by position is not allowed.
    """
    count = len(model_names) if model_names is not None else num_classes
    if model_names is not None and list(model_names) == list(data_names):
        return tuple(range(len(data_names)))
    if (unknown := _unknown_side(model_names, data_names)) is not None:
        if count != len(data_names):
            raise ClassesError(
                f"{dataset} has {len(data_names)} classes and the model {count}, and {unknown} has no names for them; "
                "expected the same number: name the classes (in label_names of config.json, or in the data), or set "
                "`num_classes` if the data only lacks images of the last classes"
            )
        if not by_position:
            raise ClassesError(f"{unknown} has no names for its classes (label_names in config.json)")
        _log.warning(
            "%s has no names for its classes; matched by position: output 0 is %r, …, output %d is %r",
            *(unknown, data_names[0], len(data_names) - 1, data_names[-1]),
        )
        return tuple(range(len(data_names)))
    return _match_by_name(model_names or (), data_names, dataset, used)


def _unknown_side(model_names: Sequence[str] | None, data_names: Sequence[str]) -> str | None:
    if model_names is None or (only_count(model_names) and not set(model_names) & set(data_names)):
        return "the model"
    by_name = not only_count(model_names) and set(data_names) <= set(model_names)  # "0", "1", "10", "2", … of folders
    return "the data set" if only_count(data_names) and not by_name else None


def only_count(names: Sequence[str]) -> bool:
    """Whether names only count, like "0", "1", …, "class 0", …, "LABEL_0", …, "000", …."""
    numbers = [_NUMBERED.fullmatch(name) for name in names]
    return all(number is not None and int(number[1]) == index for index, number in enumerate(numbers))


def _match_by_name(
    model_names: Sequence[str], data_names: Sequence[str], dataset: str, used: Collection[int] | None
) -> tuple[int, ...]:
    outputs = {name: index for index, name in reversed(list(enumerate(model_names)))}
    needed = [name for index, name in enumerate(data_names) if used is None or index in used]
    if unknown := [name for name in needed if name not in outputs]:
        raise ClassesError(
            f"{dataset} has {_count(unknown)} that the model lacks: "
            + "; ".join(_with_nearest(name, model_names) for name in unknown[:_MOST_NAMED])
            + (f"; … {len(unknown) - _MOST_NAMED} more" if len(unknown) > _MOST_NAMED else "")
            + "; evaluate on data of the model's classes, or rename the classes"
        )
    counts = Counter(model_names)
    if twice := [name for name in needed if counts[name] > 1]:
        raise ClassesError(
            f"the model has {counts[twice[0]]} classes named {twice[0]!r}, so that of {dataset} is ambiguous; make the "
            "label_names in its config.json unique"
        )
    rows = tuple(outputs.get(name, -1) for name in data_names)
    if missing := [name for name in data_names if name not in outputs]:
        _log.warning(
            "%s of %s without images are not the model's and are ignored: %s",
            *(_count(missing), dataset, ", ".join(map(repr, missing[:_MOST_NAMED]))),
        )
    known = sum(row >= 0 for row in rows)
    if known == 1 and len(model_names) > 1:
        raise ClassesError(
            f"{dataset} has only one of the model's {len(model_names)} classes, {data_names[rows.index(max(rows))]!r}, "
            "so every image would count as correct; evaluate on at least two classes"
        )
    if known < len(model_names):
        _log.warning(
            "%s has %d of the model's %d classes, matched by name: top-1 and top-5 are among their outputs only",
            *(dataset, known, len(model_names)),
        )
    else:
        _log.info("the classes of %s are in another order than the model's; matched by name", dataset)
    return rows


def _with_nearest(name: str, model_names: Sequence[str]) -> str:
    otherwise = f"the model has {', '.join(model_names[:3])}, …"
    return f"{name!r} ({did_you_mean(name, model_names, otherwise, most=_MOST_NAMED, cutoff=0.4)})"


def _count(names: Sequence[str]) -> str:
    return f"{len(names)} class{'es' * (len(names) != 1)}"
