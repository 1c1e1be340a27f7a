"""Freeze parts of a pretrained model: its lower stages, or all but the classifier."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Literal

from timm.models import group_parameters
from torch import nn

from ssia_zoo.errors import ConfigError
from ssia_zoo.models.features import TimmModel

_log = logging.getLogger(__name__)

_BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def freeze(model: TimmModel, depth: int | Literal["head"], name: str) -> None:
    """Freeze the stem and the first stages of a model, or all but its classifier, and log what is left to train.

    BatchNorm of the frozen part must also keep its statistics: call `keep_statistics` after each `model.train()`.

    Args:
        model: A timm classifier, changed in place.
        depth: Number of stages to freeze with the stem; "head" freezes all but the classifier.
        name: The model's name in messages.

    Raises:
        ConfigError: If the model has fewer stages, or timm does not group its parameters into stages.
    """
    if depth == "head":
        train_only(model, classifier_parameters(model))
        part = "all but the classifier"
    else:
        stages = parameter_stages(model, name)
        count = max(stages.values()) - 1  # 0 is the stem, the last one the classifier
        if depth > count:
            raise ConfigError(
                f"`freeze` is {depth}; {name} has {count} stages: expected 0 (the stem alone) to {count}, or head"
            )
        train_only(model, {parameter for parameter, stage in stages.items() if stage > depth})
        part = f"the stem and {depth} of {count} stages" if depth else "the stem"
    _log.info("frozen: %s; %s", part, trained_share(model))


def parameter_stages(model: TimmModel, name: str) -> dict[str, int]:
    """Return the stage of each parameter, as timm groups them: 0 is the stem, the highest number the classifier.

    Layers between the last stage and the classifier belong to one of the two, as timm's `group_matcher` decides. A
    stage of a plain ViT is one block.

    Args:
        model: A timm classifier.
        name: The model's name in messages.

    Raises:
        ConfigError: If timm does not group the model's parameters.
    """
    try:
        stages: dict[str, int] = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    except (AttributeError, AssertionError) as error:  # no group_matcher, or none for stages
        raise ConfigError(
            f"timm does not group the parameters of {name} into stages; set `freeze` to head, or choose another model"
        ) from error
    head = min(stages[parameter] for parameter in classifier_parameters(model))
    return {parameter: min(stage, head) for parameter, stage in stages.items()}


def classifier_parameters(model: TimmModel) -> dict[str, nn.Parameter]:
    """Return the parameters of a timm model's classifier by name (of a distilled model: of both classifiers)."""
    classifiers = model.get_classifier()
    classifiers = classifiers if isinstance(classifiers, list | tuple) else (classifiers,)
    own = {id(parameter) for classifier in classifiers for parameter in classifier.parameters()}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in own}


def train_only(model: nn.Module, names: Iterable[str]) -> None:
    """Freeze all parameters but these."""
    trained = set(names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name in trained


def trained_share(model: nn.Module) -> str:
    """Describe how many parameters of a model train."""
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return f"{trained:,} of {sum(parameter.numel() for parameter in model.parameters()):,} parameters train"


def keep_statistics(module: nn.Module) -> None:
    """Switch the BatchNorm of frozen parts of a module to eval mode, so that its statistics do not move.

    The layers stay what they are, unlike with timm's `freeze_batch_norm_2d`, so the state_dict is that of the vanilla
    model.
    """
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        for layer in module.modules():
            if isinstance(layer, _BATCH_NORM):
                layer.eval()
    else:
        for child in module.children():
            keep_statistics(child)
