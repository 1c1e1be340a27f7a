"""Build the model to train: create it, adapt its pretrained classifier to the data's classes, check it."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from timm.layers import convert_sync_batchnorm
from timm.models import resolve_model_input_args
from torch import Tensor

from ssia_zoo.data.config import height_width
from ssia_zoo.data.preprocessing import ConvertMode, Preprocessing, model_preprocessing, with_default_preprocessing
from ssia_zoo.errors import ConfigError, SSIAZooError, one_line
from ssia_zoo.models.features import TimmModel, evaluating, forward_stages, stage_indices, try_blank_image
from ssia_zoo.models.label_names import only_count, read_label_names
from ssia_zoo.models.loading import create_checked, timm_name
from ssia_zoo.training.config import TrainConfig
from ssia_zoo.training.freezing import freeze, keep_statistics
from ssia_zoo.training.lora import add_adapters

_log = logging.getLogger(__name__)


def build_model(
    config: TrainConfig, num_classes: int, label_names: Sequence[str] = ()
) -> tuple[TimmModel, Preprocessing]:
    """Create the model to train and determine its preprocessing.

    Args:
        config: Settings. Image size, interpolation and crop that are None are taken from the pretrained model, or from
            the defaults of `Preprocessing` when training from scratch.
        num_classes: Number of classes in the data.
        label_names: Names of the data's classes, matched with those of a pretrained classifier.

    Raises:
        ConfigError: If timm has no such model, or it does not take these arguments or this image size.
        WeightError, HubError: If the pretrained weights are missing or damaged.
    """
    model = create_model(config, num_classes)
    if config.pretrained and label_names:
        adapt_classifier(model, label_names, config.model, partial(_create_again, config, num_classes))
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
    preprocessing = model_preprocessing(model, config if config.pretrained else with_default_preprocessing(config))
    size = train_input_size(config, preprocessing)
    ConvertMode(size[0])  # raises for a number of channels that no image has
    for one in {preprocessing.input_size, size}:
        try_blank_image(model, one, name=f"`model` {config.model}")
    if config.freeze is not None:
        freeze(model, config.freeze, config.model)
    if config.lora is not None:
        add_adapters(model, config.lora, size, config.model)
    if config.batch_size == 1:
        _check_batch_of_one(model, config.model, size)
    if config.grad_checkpointing:
        _checkpoint_gradients(model, config, size)
    if config.sync_bn:
        model = convert_sync_batchnorm(model)
    origin = f"{config.model}'s" if config.pretrained else "the defaults, as training is from scratch"
    _log.info("preprocessing (%s, unless set): %s", origin, preprocessing)
    if size != preprocessing.input_size:
        _log.info("training images are %dx%d, evaluation images %dx%d", *size[1:], *preprocessing.input_size[1:])
    own = len(model.pretrained_cfg.get("mean") or size[:1])
    if own != size[0]:
        first = "; timm adapts the first layer's weights, or warns that it cannot" if config.pretrained else ""
        _log.info(
            "%s is for %d channels and takes %d: mean and standard deviation are averages over the channels%s",
            *(config.model, own, size[0], first),
        )
    return model, preprocessing


def train_input_size(config: TrainConfig, preprocessing: Preprocessing) -> tuple[int, int, int]:
    """Return channels, height and width of the training images."""
    size = config.train_image_size
    return preprocessing.input_size if size is None else (preprocessing.input_size[0], *height_width(size))


def create_model(config: TrainConfig, num_classes: int | None = None) -> TimmModel:
    """Create the model `config.model` with the architecture arguments of `config`.

    Args:
        config: Settings; the model's own image size is used if `image_size` is None.
        num_classes: Number of classes in the data; the model's own if None.

    Raises:
        ConfigError, WeightError, HubError: As `build_model`.
    """
    arguments: dict[str, Any] = {"drop_rate": config.drop_rate, "drop_path_rate": config.drop_path_rate}
    arguments |= json.loads(json.dumps(config.model_kwargs))  # a copy, as the model may change what it is given
    if num_classes is not None:
        arguments["num_classes"] = num_classes
    if config.in_chans is not None:
        arguments["in_chans"] = config.in_chans
    pretrained = config.pretrained or config.eval_only
    try:
        source = timm_name(config.model, pretrained=pretrained)
        size = {"img_size": config.image_size} if config.image_size else None
        img_size = resolve_model_input_args(source, size).get("img_size")  # for models of one fixed size
        return create_checked(source, pretrained=pretrained, img_size=img_size, **arguments)
    except SSIAZooError as error:
        raise type(error)(f"`model` {config.model}: {error}") from error
    except Exception as error:  # timm raises many types
        raise ConfigError(f"`model` {config.model}: {type(error).__name__}: {one_line(error)}") from error


def _create_again(config: TrainConfig, num_classes: int, pretrained: bool) -> TimmModel:
    return create_model(replace(config, pretrained=pretrained), None if pretrained else num_classes)


def adapt_classifier(
    model: TimmModel, label_names: Sequence[str], name: str, create: Callable[[bool], TimmModel]
) -> None:
    """Match a pretrained classifier with the data's classes by name, in place, and log what was done.

    timm keeps a classifier that has as many classes as the data, whatever their names, and creates a new one otherwise.
    Here, a classifier that has all of the data's classes is kept, its rows in the data's order, and one that lacks a
    class is replaced by a new one. Where either side has no names, timm's rule applies.

    Args:
        model: The pretrained model, with as many classes as the data.
        label_names: The data's classes.
        name: The model's name in messages.
        create: Creates the model again: pretrained with its original classes (True), or with random weights and the
            data's number of classes (False).

    Raises:
        ConfigError: If the classifier must change and timm's configuration does not name it.
    """
    cfg = model.pretrained_cfg
    count = int(cfg.get("num_classes") or 0)
    own = read_label_names(cfg, count)
    same_count = count == len(label_names)
    if own is not None and list(own) == list(label_names):
        _log.info("%s: the head is kept: same classes in the same order", name)
    elif own is None or only_count(own) or only_count(label_names):
        if same_count:
            unnamed = "model" if own is None or only_count(own) else "data"
            _log.warning(
                "%s: the head is kept by position, as the %s has no class names: output 0 becomes %r, and so on",
                *(name, unnamed, label_names[0]),
            )
        else:
            _log.info("%s: a new head of %d classes, as the model has %d", name, len(label_names), count)
    elif set(label_names) <= set(own) and max(Counter(own)[label] for label in label_names) == 1:
        rows = torch.tensor([own.index(label) for label in label_names])
        _copy_classifier(model, name, model if same_count else create(True), rows)
        _log.info(
            "%s: the head is kept, its %d classes matched by name (%s)",
            *(name, len(label_names), "in another order" if same_count else f"of {count}"),
        )
    else:
        missing = [repr(label) for label in label_names if label not in own]
        if same_count:
            _copy_classifier(model, name, create(False), None)
        reason = f"lacks the class {missing[0]}" if missing else "has a class name twice"
        _log.info("%s: a new head, as the model's %s", name, reason)


def _copy_classifier(model: TimmModel, name: str, source: TimmModel, rows: Tensor | None) -> None:
    """Copy these rows of another model's classifier, or all of it if None."""
    classifiers = model.pretrained_cfg.get("classifier") or ()
    classifiers = (classifiers,) if isinstance(classifiers, str) else classifiers
    if not classifiers:
        raise ConfigError(
            f"`model` {name}: its pretrained_cfg does not name the classifier; list the data's classes in the model's "
            "order"
        )
    with torch.no_grad():
        for path in classifiers:
            theirs = dict(source.get_submodule(path).named_parameters())
            for key, parameter in model.get_submodule(path).named_parameters():
                parameter.copy_(theirs[key].detach().clone() if rows is None else theirs[key].detach()[rows])


def _check_batch_of_one(model: TimmModel, name: str, size: tuple[int, int, int]) -> None:
    """Check that BatchNorm can train on one image, which it cannot where a feature map has one position."""
    try:
        with torch.no_grad():
            keep_statistics(copy := deepcopy(model).train())
            copy(torch.zeros(1, *size))
    except ValueError as error:
        raise ConfigError(
            f"`batch_size` is 1, and the BatchNorm of {name} at size {size[1]}x{size[2]} needs more than one value per "
            "channel; expected at least 2"
        ) from error


def _checkpoint_gradients(model: TimmModel, config: TrainConfig, size: tuple[int, int, int]) -> None:
    """Turn timm's gradient checkpointing on; warn if it saves no memory in this training's forward."""

    def saved_bytes() -> int:
        sizes: list[int] = []

        def pack(tensor: Tensor) -> Tensor:
            sizes.append(tensor.nbytes)
            return tensor

        image = torch.zeros(1, *size)
        with evaluating(model), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(image) if config.method == "vanilla" else forward_stages(model, image, stage_indices(model))
        return sum(sizes)

    before = saved_bytes()
    try:
        model.set_grad_checkpointing()
    except (AttributeError, AssertionError) as error:
        raise ConfigError(f"`grad_checkpointing`: {config.model} does not support it; leave it out") from error
    if saved_bytes() >= before:
        _log.warning(
            "`grad_checkpointing` saves no memory: timm's %s does not use it in %s",
            *(config.model, "forward" if config.method == "vanilla" else "forward_intermediates"),
        )
