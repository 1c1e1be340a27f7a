"""Training objectives by name; each builds a timm training task from a model and the settings of a run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from timm.loss import BinaryCrossEntropy, create_classification_loss
from timm.task import ClassificationTask, MultiLabelClassificationTask, TrainingTask
from torch import Tensor, nn

from ssia_zoo.errors import ConfigError, did_you_mean
from ssia_zoo.loss import ATLoss, BYOTLoss, ClassWeightedLoss, DKSLoss, DSNLoss, RivalLoss, SADLoss
from ssia_zoo.models.features import TimmModel
from ssia_zoo.task import AuxiliaryTask, SSIATask
from ssia_zoo.training.config import TrainConfig

_log = logging.getLogger(__name__)

InputSize = tuple[int, int, int]
PerImage = Callable[[Tensor, Tensor], Tensor]
Method = Callable[[TimmModel, TrainConfig, InputSize, nn.Module, int | None, bool], TrainingTask]


def _vanilla(
    model: TimmModel,
    config: TrainConfig,
    input_size: InputSize,
    criterion: nn.Module,
    images: int | None,
    multi_label: bool,
) -> TrainingTask:
    """Build the control: timm's own task, without any code of this package."""
    task = MultiLabelClassificationTask if multi_label else ClassificationTask
    return task(model, criterion, verbose=False)


def _ssia(
    model: TimmModel,
    config: TrainConfig,
    input_size: InputSize,
    criterion: nn.Module,
    images: int | None,
    multi_label: bool,
) -> TrainingTask:
    if config.ssia.supervisor == "memory" and images is not None:
        size = 2 * images * int(model.num_classes) / 1e6
        _log.info("memory of predictions: %d images x %d classes, %.1f MB", images, model.num_classes, size)
    if config.ssia.supervisor == "average":
        _log.info("`ssia.supervisor` average: each step makes one more forward pass, of the moving average of `ema`")
    kwargs: dict[str, Any] = {"input_size": input_size, "criterion": criterion}
    return SSIATask(model, config.ssia, images=images, multi_label=multi_label, **kwargs)


def _rival(loss: type[RivalLoss]) -> Method:
    def method(
        model: TimmModel,
        config: TrainConfig,
        input_size: InputSize,
        criterion: nn.Module,
        images: int | None,
        multi_label: bool,
    ) -> TrainingTask:
        lambda_at = partial(config.rival.lambda_at, default=loss.default_weight)
        return AuxiliaryTask(model, loss, lambda_at, input_size=input_size, criterion=criterion)

    return method


RIVALS: dict[str, type[RivalLoss]] = {loss.name: loss for loss in (SADLoss, ATLoss, DSNLoss, BYOTLoss, DKSLoss)}
_DISTRIBUTIONS = ("byot", "dks")
"""Rivals with a softmax over the classes."""

METHODS: dict[str, Method] = {
    "ssia": _ssia,
    "vanilla": _vanilla,
    **{name: _rival(loss) for name, loss in RIVALS.items()},
}


def with_lambda(config: TrainConfig, model: TimmModel) -> TrainConfig:
    """Set lambda for method ssia, by the network where `ssia.weight` is None, and log the form of the loss."""
    if config.method != "ssia":
        return config
    ssia = config.ssia.for_model(model)
    form = "label-free" if ssia.labels == 0 else "labels and signal" if not ssia.hands_over else "labels, then signal"
    _log.info("SSIA: %s in the lower layers, supervisor %s, lambda %g", form, ssia.supervisor, ssia.weight)
    return replace(config, ssia=ssia)


def create_task(
    model: TimmModel,
    config: TrainConfig,
    input_size: InputSize,
    images: int | None = None,
    class_weights: Tensor | None = None,
    *,
    multi_label: bool = False,
) -> TrainingTask:
    """Build the training task of `config.method`.

    Args:
        model: A timm classifier.
        config: Settings of the run.
        input_size: Channels, height, width of the training images.
        images: Number of training images; required for supervisor memory.
        class_weights: Weight of each class [C] in the task loss, also of training-only heads that learn labels; all
            equal if None.
        multi_label: Whether targets are vectors of 0 and 1, for several labels an image; the loss is then binary
            cross-entropy per class.

    Raises:
        ConfigError: There is no such method, or it does not support this model or several labels an image.
    """
    if config.method not in METHODS:
        hint = did_you_mean(config.method, METHODS, "choose one of them", most=1)
        raise ConfigError(f"`method` is {config.method!r}; expected one of {', '.join(METHODS)}; {hint}")
    criterion = build_criterion(config, class_weights, multi_label)
    return METHODS[config.method](model, config, input_size, criterion, images, multi_label)


def build_criterion(config: TrainConfig, class_weights: Tensor | None = None, multi_label: bool = False) -> nn.Module:
    """Build timm's task loss, weighted by class if weights are given."""
    soft_targets = config.mixup > 0 or config.cutmix > 0  # timm's Mixup applies label smoothing itself
    if class_weights is not None:
        smoothing = 0.0 if soft_targets else config.smoothing
        per_image = _bce(config, smoothing) if config.bce_loss else _cross_entropy(smoothing)
        return ClassWeightedLoss(per_image, class_weights, config.smoothing if soft_targets else 0.0)
    kwargs: dict[str, Any] = {
        "smoothing": config.smoothing,
        "soft_targets": soft_targets,
        "multi_label": multi_label,
    }
    if config.bce_loss or multi_label:
        kwargs |= {"loss_type": "bce", "bce_sum": config.bce_sum, "bce_target_thresh": config.bce_target_thresh}
    criterion: nn.Module = create_classification_loss(**kwargs)
    return criterion


def _cross_entropy(smoothing: float) -> PerImage:
    return nn.CrossEntropyLoss(reduction="none", label_smoothing=smoothing)


def _bce(config: TrainConfig, smoothing: float) -> PerImage:
    per_class = BinaryCrossEntropy(smoothing, config.bce_target_thresh, reduction="none")

    def per_image(logits: Tensor, target: Tensor) -> Tensor:
        losses: Tensor = per_class(logits, target)
        return losses.sum(1) if config.bce_sum else losses.mean(1)

    return per_image


def check_multi_label(config: TrainConfig) -> None:
    """Refuse settings that need one label an image.

    Raises:
        ConfigError: There is one.
    """
    if config.method in _DISTRIBUTIONS:
        others = ", ".join(name for name in METHODS if name not in _DISTRIBUTIONS)
        raise ConfigError(
            f"`method` {config.method} compares distributions over classes, but the images have several labels; choose "
            f"one of: {others}"
        )
    for name in ("class_weights", "balanced_sampling", "probe"):
        if getattr(config, name):
            raise ConfigError(f"`{name}` needs one label an image, but the images have several; leave it out")
