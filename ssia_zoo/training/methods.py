"""Training objectives by name; each builds a timm training task from a model and the settings of a run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from timm.loss import create_classification_loss
from timm.task import ClassificationTask, TrainingTask

from ssia_zoo.errors import ConfigError, did_you_mean
from ssia_zoo.loss import ATLoss, BYOTLoss, DKSLoss, DSNLoss, RivalLoss, SADLoss
from ssia_zoo.models.features import TimmModel
from ssia_zoo.task import AuxiliaryTask, SSIATask
from ssia_zoo.training.config import TrainConfig

_log = logging.getLogger(__name__)

InputSize = tuple[int, int, int]
Method = Callable[[TimmModel, TrainConfig, InputSize, dict[str, Any], int | None], TrainingTask]


def _vanilla(
    model: TimmModel, config: TrainConfig, input_size: InputSize, criterion: dict[str, Any], images: int | None
) -> TrainingTask:
    """Build the control: timm's own task, without any code of this package."""
    return ClassificationTask(model, create_classification_loss(**criterion), verbose=False)


def _ssia(
    model: TimmModel, config: TrainConfig, input_size: InputSize, criterion: dict[str, Any], images: int | None
) -> TrainingTask:
    return SSIATask(model, config.ssia, images=images, input_size=input_size, criterion_kwargs=criterion)


def _rival(loss: type[RivalLoss]) -> Method:
    def method(
        model: TimmModel, config: TrainConfig, input_size: InputSize, criterion: dict[str, Any], images: int | None
    ) -> TrainingTask:
        lambda_at = partial(config.rival.lambda_at, default=loss.default_weight)
        return AuxiliaryTask(model, loss, lambda_at, input_size=input_size, criterion_kwargs=criterion)

    return method


RIVALS: dict[str, type[RivalLoss]] = {loss.name: loss for loss in (SADLoss, ATLoss, DSNLoss, BYOTLoss, DKSLoss)}
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
    model: TimmModel, config: TrainConfig, input_size: InputSize, images: int | None = None
) -> TrainingTask:
    """Build the training task of `config.method`.

    Args:
        model: A timm classifier.
        config: Settings of the run.
        input_size: Channels, height, width of the training images.
        images: Number of training images; required for supervisor memory.

    Raises:
        ConfigError: There is no such method, or it does not support this model.
    """
    if config.method not in METHODS:
        hint = did_you_mean(config.method, METHODS, "choose one of them", most=1)
        raise ConfigError(f"`method` is {config.method!r}; expected one of {', '.join(METHODS)}; {hint}")
    soft_targets = config.mixup > 0 or config.cutmix > 0  # timm's Mixup applies label smoothing itself
    criterion: dict[str, Any] = {"smoothing": config.smoothing, "soft_targets": soft_targets}
    if config.bce_loss:
        criterion |= {"loss_type": "bce", "bce_sum": config.bce_sum, "bce_target_thresh": config.bce_target_thresh}
    return METHODS[config.method](model, config, input_size, criterion, images)
