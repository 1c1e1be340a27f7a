"""Which output of a model stands for which class of a data set: matched by name wherever both have names."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from timm.data import ImageNetInfo, infer_imagenet_subset

from ssia_zoo.errors import ClassesError
from ssia_zoo.hub.files import is_index

_log = logging.getLogger(__name__)

_NUMBERED = re.compile(r"(?:(?:class|label)[ _-]?)?0*(\d+)", re.IGNORECASE)
_MOST_NAMED = 3


def read_label_names(cfg: Mapping[str, Any], num_classes: int) -> tuple[str, ...] | None:
    """Read the names of a model's classes, in the order of its outputs.

    Args:
        cfg: A `pretrained_cfg`; timm allows its `label_names` as a list, or as a mapping from index to name with gaps.
        num_classes: Outputs of the model.

    Returns:
        One name a class, "class 3" in a gap; None if there are none, or not those of these outputs.
    """
    names = cfg.get("label_names") or ()
    if isinstance(names, Mapping):
        by_index = {int(index): str(name) for index, name in names.items() if is_index(index, num_classes)}
        complete = by_index and len(by_index) == len(names)
        return tuple(by_index.get(index, f"class {index}") for index in range(num_classes)) if complete else None
    return tuple(map(str, names)) if len(names) == num_classes else None


def describe_labels(cfg: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...] | None:
    """Read the descriptions of the classes of these names; None if `label_descriptions` lacks any."""
    descriptions = cfg.get("label_descriptions")
    if not isinstance(descriptions, Mapping) or not all(name in descriptions for name in names):
        return None
    return tuple(str(descriptions[name]) for name in names)


def imagenet_names(model: Any) -> list[tuple[str, ...]]:
    """Return ImageNet's WordNet ids, descriptions and the first words of these, if timm takes a model for its."""
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
    """Find the outputs of a timm classifier that stand for a data set's classes, and report how they were found.

    The model's own names and descriptions come first; timm's ImageNet classifiers have those of ImageNet.

    Args:
        model: A timm classifier.
        data_names: The data set's classes, in the order of its labels.
        dataset: What to call the data set.
        used: Labels that images have; a class without an image need not be the model's. All if None.
        by_position: Whether to trust positions where names are not known, or to raise.

    Returns:
        For each class of the data the model's output, -1 for one that the model does not have and that no image is of;
        None if outputs and classes are the same in the same order.

    Raises:
        ClassesError: If the classes are not the model's.
    """
    cfg = getattr(model, "pretrained_cfg", None) or {}
    needed = set(data_names) if used is None else {data_names[label] for label in used}
    names = read_label_names(cfg, model.num_classes)
    candidates = imagenet_names(model) if names is None else [names]
    if names is not None and (described := describe_labels(cfg, names)) is not None:
        candidates.append(described)
    best = max(candidates, key=lambda names: len(needed & set(names)), default=None)
    if names is None and best is not None and not needed <= set(best) and len(data_names) == model.num_classes:
        best = None  # that the model's classes are ImageNet's is a guess, and as many others is a likelier one
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
    """Find the model's output for each class of a data set, by name; arguments and result are those of `match_model`.

    Names that only count ("0", "1", …, "class 0", …) are no names: then positions are trusted, which a warning says.

    Args:
        model_names: One name an output, or None if they are not known.
        data_names: The data set's classes.
        dataset: What to call the data set.
        used: Labels that images have.
        num_classes: Outputs of the model, if `model_names` is None.
        by_position: Whether to trust positions.

    Raises:
        ClassesError: If a class of the data is not among the model's, or names are not known on one side and positions
            are not to be trusted, or the numbers of classes differ.
    """
    count = len(model_names) if model_names is not None else num_classes
    if model_names is not None and list(model_names) == list(data_names):
        return tuple(range(len(data_names)))
    if (unknown := _unknown_side(model_names, data_names)) is not None:
        if count != len(data_names):
            raise ClassesError(
                f"{dataset} has {len(data_names)} classes and the model {count}, and {unknown} has no names for them; "
                "they must agree: name the classes (in label_names of config.json, or by the data's labels), or say by "
                "--num-classes how many there are if the data only lacks images of the last ones"
            )
        if not by_position:
            raise ClassesError(f"{unknown} has no names for its classes (label_names in config.json)")
        _log.warning(
            "%s has no names for its classes: output 0 is taken for %r, and so on to output %d for %r",
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
    """Whether names say no more than positions do: "0", "1", "2", …, "class 0", …, "LABEL_0", …, "000", …."""
    numbers = [_NUMBERED.fullmatch(name) for name in names]
    return all(number is not None and int(number[1]) == index for index, number in enumerate(numbers))


def _match_by_name(
    model_names: Sequence[str], data_names: Sequence[str], dataset: str, used: Collection[int] | None
) -> tuple[int, ...]:
    outputs = {name: index for index, name in reversed(list(enumerate(model_names)))}
    needed = [name for index, name in enumerate(data_names) if used is None or index in used]
    if unknown := [name for name in needed if name not in outputs]:
        raise ClassesError(
            f"{dataset} has {_some(unknown, 'class', 'classes')} that the model does not know: "
            + "; ".join(_with_nearest(name, model_names) for name in unknown[:_MOST_NAMED])
            + (f"; … {len(unknown) - _MOST_NAMED} more" if len(unknown) > _MOST_NAMED else "")
            + ": evaluate on data of the model's classes, or rename them"
        )
    counts = Counter(model_names)
    if twice := [name for name in needed if counts[name] > 1]:
        raise ClassesError(
            f"the model has {counts[twice[0]]} classes named {twice[0]!r}; which of them that of {dataset} is cannot "
            "be told: give each of label_names in its config.json a name of its own"
        )
    rows = tuple(outputs.get(name, -1) for name in data_names)
    if missing := [name for name in data_names if name not in outputs]:
        _log.warning(
            "%s of %s unknown to the model and without images, left out: %s",
            *(_some(missing, "class", "classes"), dataset, ", ".join(map(repr, missing[:_MOST_NAMED]))),
        )
    known = sum(row >= 0 for row in rows)
    if known == 1 and len(model_names) > 1:
        raise ClassesError(
            f"{dataset} has only one of the model's {len(model_names)} classes, {data_names[rows.index(max(rows))]!r}: "
            "with no other to take it for, every image would count as right; evaluate on two classes or more"
        )
    if known < len(model_names):
        _log.warning(
            "%s has %d of the model's %d classes, matched by name: only their outputs compete for top-1 and top-5",
            *(dataset, known, len(model_names)),
        )
    else:
        _log.info("the classes of %s are the model's in another order; matched by name", dataset)
    return rows


def _with_nearest(name: str, model_names: Sequence[str]) -> str:
    near = get_close_matches(name, model_names, n=_MOST_NAMED, cutoff=0.4)
    return f"{name!r} (nearest: {', '.join(near)})" if near else f"{name!r} (it knows {', '.join(model_names[:3])}, …)"


def _some(names: Sequence[str], one: str, several: str) -> str:
    return f"{len(names)} {one if len(names) == 1 else several}"
