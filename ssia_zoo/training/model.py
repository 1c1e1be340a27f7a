"""The classifier that fine-tuning starts from: the pretrained one wherever it has the data's classes, by name."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ssia_zoo.errors import ConfigError
from ssia_zoo.models.features import TimmModel
from ssia_zoo.models.label_names import only_count, read_label_names

_log = logging.getLogger(__name__)


def adapt_head(model: TimmModel, label_names: Sequence[str], name: str, create: Callable[[bool], TimmModel]) -> None:
    """Give each class of the data the output of its name, where the pretrained head has all of them, and report it.

    timm keeps a head of as many classes as the data has, whatever they are called, and makes a new one otherwise.

    Args:
        model: The pretrained model, of as many classes as the data has; changed in place.
        label_names: The data's classes.
        name: What to call the model.
        create: Makes the same model again: with True pretrained, with the classes of its weights; with False with
            random weights, with the data's classes.

    Raises:
        ConfigError: If the head has to be changed and cannot be found.
    """
    cfg = model.pretrained_cfg
    count = int(cfg.get("num_classes") or 0)
    own = read_label_names(cfg, count)
    same_count = count == len(label_names)
    if own is not None and list(own) == list(label_names):
        _log.info("%s: the head is kept, it has these classes in this order", name)
    elif own is None or only_count(own) or only_count(label_names):
        if same_count:
            _log.warning(
                "%s: the head is kept by position, as %s names its classes: output 0 is taken for %r, and so on",
                *(name, "only the data" if own is None or only_count(own) else "only the model", label_names[0]),
            )
        else:
            _log.info("%s: a new head of %d classes, as the model has %d", name, len(label_names), count)
    elif set(label_names) <= set(own) and max(Counter(own)[label] for label in label_names) == 1:
        rows = torch.tensor([own.index(label) for label in label_names])
        _replace(model, name, model if same_count else create(True), rows)
        _log.info(
            "%s: the head is kept, its %d classes matched by name (%s)",
            *(name, len(label_names), "in another order" if same_count else f"of {count}"),
        )
    else:
        missing = [label for label in label_names if label not in own] or ["a name twice"]
        if same_count:
            _replace(model, name, create(False), None)
        _log.info("%s: a new head, as the model's has not these classes (such as %r)", name, missing[0])


def _replace(model: TimmModel, name: str, source: TimmModel, rows: Tensor | None) -> None:
    """Copy rows of another model's classifier, all if None."""
    classifiers = model.pretrained_cfg.get("classifier") or ()
    classifiers = (classifiers,) if isinstance(classifiers, str) else classifiers
    if not classifiers:
        raise ConfigError(f"--model {name}: its classifier is not known; order the data's classes as the model's are")
    with torch.no_grad():
        for path in classifiers:
            theirs = dict(source.get_submodule(path).named_parameters())
            for key, parameter in model.get_submodule(path).named_parameters():
                parameter.copy_(theirs[key].detach().clone() if rows is None else theirs[key].detach()[rows])
