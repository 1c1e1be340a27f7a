"""LoRA by peft: adapters on the layers of a timm model, merged into the vanilla model's weights for its output."""

from __future__ import annotations

import logging
import re
from collections import Counter
from copy import deepcopy
from typing import Any

from torch import nn

from ssia_zoo.errors import ConfigError
from ssia_zoo.models.features import TimmModel, try_blank_image
from ssia_zoo.training.freezing import classifier_parameters, parameter_stages, train_only, trained_share

_log = logging.getLogger(__name__)

_MOST_KINDS = 8


def add_adapters(model: TimmModel, rank: int, input_size: tuple[int, int, int], name: str) -> None:
    """Add LoRA adapters to a model in place, freeze all parameters but theirs and the classifier's, and log it.

    Linear layers and ungrouped convolutions after the stem get one, unless the model uses their weights without calling
    them. The scale is 1: alpha is the rank.

    Args:
        model: A timm classifier.
        rank: Rank of the adapters.
        input_size: Channels, height, width.
        name: The model's name in messages.

    Raises:
        ConfigError: If no layer can have an adapter.
    """
    from peft import LoraConfig, inject_adapter_in_model  # optional

    layers, others = _layers(model, input_size, name)
    if not layers:
        raise ConfigError(f"`lora`: {name} has no linear layer or ungrouped convolution for an adapter; leave it out")
    pattern = "|".join(map(re.escape, layers))  # peft matches all of a layer's name with it
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=pattern), model)
    adapters = [parameter for parameter, _ in model.named_parameters() if ".lora_" in parameter]
    train_only(model, [*adapters, *classifier_parameters(model)])
    left = f"; without adapter, so frozen: {_kinds(others)}" if others else ""
    _log.info("LoRA of rank %d on %s%s; %s", rank, _kinds(layers), left, trained_share(model))


def merged(model: TimmModel) -> TimmModel:
    """Return a copy of a model with its adapters merged into its weights: the vanilla timm model."""
    from peft.tuners.tuners_utils import BaseTunerLayer  # optional

    model = deepcopy(model)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            model.set_submodule(name, layer.get_base_layer())
    del model.peft_config
    return model


def _layers(model: TimmModel, input_size: tuple[int, int, int], name: str) -> tuple[list[str], list[str]]:
    """Return the layers that get an adapter, and the other linear layers and convolutions but the classifier.

    Subclasses of the layers may compute something else with their weights, which merging would not follow.
    """
    called: set[nn.Module] = set()
    hooks = [module.register_forward_pre_hook(lambda module, _: called.add(module)) for module in model.modules()]
    try_blank_image(model, input_size, name=name)
    for hook in hooks:
        hook.remove()
    head = {parameter.rpartition(".")[0] for parameter in classifier_parameters(model)}
    stem = _stem(model, name)
    adapted: list[str] = []
    others: list[str] = []
    for layer, module in model.named_modules():
        if layer in head or not isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            continue
        plain = type(module) is nn.Linear or (type(module) is nn.Conv2d and module.groups == 1)
        (adapted if plain and module in called and layer not in stem else others).append(layer)
    return adapted, others


def _stem(model: TimmModel, name: str) -> set[str]:
    """Return the names of the stem's modules; none if timm does not group the model's parameters."""
    try:
        stages: dict[str, Any] = parameter_stages(model, name)
    except ConfigError:
        return set()
    return {parameter.rpartition(".")[0] for parameter, stage in stages.items() if stage == 0}


def _kinds(layers: list[str]) -> str:
    """Summarize names of layers: "12 blocks.*.attn.qkv, 12 blocks.*.attn.proj"."""
    counted = Counter(re.sub(r"\b\d+\b", "*", layer) for layer in layers)
    listed = [f"{count} {kind}" for kind, count in counted.most_common(_MOST_KINDS)]
    rest = len(layers) - sum(count for _, count in counted.most_common(_MOST_KINDS))
    return ", ".join(listed) + (f" and {rest} more" if rest else "")
