"""Training objectives by name; each builds a timm training task from a model and the settings of a run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from timm.loss import create_classification_loss
from timm.task import ClassificationTask, MultiLabelClassificationTask, TrainingTask

from ssia_zoo.errors import ConfigError, did_you_mean
from ssia_zoo.loss import ATLoss, BYOTLoss, DKSLoss, DSNLoss, RivalLoss, SADLoss
from ssia_zoo.models.features import TimmModel
from ssia_zoo.task import AuxiliaryTask, SSIATask
from ssia_zoo.training.config import TrainConfig

InputSize = tuple[int, int, int]
Method = Callable[[TimmModel, TrainConfig, InputSize, dict[str, Any], int | None], TrainingTask]


def _vanilla(
    model: TimmModel, config: TrainConfig, input_size: InputSize, criterion: dict[str, Any], images: int | None
) -> TrainingTask:
    """Build the control: timm's own task, without any code of this package."""
    task = MultiLabelClassificationTask if criterion["multi_label"] else ClassificationTask
    return task(model, create_classification_loss(**criterion), verbose=False)


def _ssia(
    model: TimmModel, config: TrainConfig, input_size: InputSize, criterion: dict[str, Any], images: int | None
) -> TrainingTask:
    kwargs: dict[str, Any] = {"input_size": input_size, "criterion_kwargs": criterion}
    return SSIATask(model, config.ssia, images=images, multi_label=criterion["multi_label"], **kwargs)


def _rival(loss: type[RivalLoss]) -> Method:
    def method(
        model: TimmModel, config: TrainConfig, input_size: InputSize, criterion: dict[str, Any], images: int | None
    ) -> TrainingTask:
        lambda_at = partial(config.rival.lambda_at, default=loss.default_weight)
        return AuxiliaryTask(model, loss, lambda_at, input_size=input_size, criterion_kwargs=criterion)

    return method


RIVALS: dict[str, type[RivalLoss]] = {loss.name: loss for loss in (SADLoss, ATLoss, DSNLoss, BYOTLoss, DKSLoss)}
_DISTRIBUTIONS = ("byot", "dks")
"""Rivals with a softmax over the classes."""

METHODS: dict[str, Method] = {
    "ssia": _ssia,
    "vanilla": _vanilla,
    **{name: _rival(loss) for name, loss in RIVALS.items()},
}


def create_task(
    model: TimmModel,
    config: TrainConfig,
    input_size: InputSize,
    images: int | None = None,
    *,
    multi_label: bool = False,
) -> TrainingTask:
    """Build the training task of `config.method`.

    Args:
        model: A timm classifier.
        config: Settings of the run.
        input_size: Channels, height, width of the training images.
        images: Number of training images; required for supervisor memory.
        multi_label: Whether targets are vectors of 0 and 1, for several labels an image; the loss is then binary
            cross-entropy per class.

    Raises:
        ConfigError: There is no such method, or it does not support this model or several labels an image.
    """
    if config.method not in METHODS:
        hint = did_you_mean(config.method, METHODS, "choose one of them", most=1)
        raise ConfigError(f"`method` is {config.method!r}; expected one of {', '.join(METHODS)}; {hint}")
    soft_targets = config.mixup > 0 or config.cutmix > 0  # timm's Mixup applies label smoothing itself
    criterion: dict[str, Any] = {
        "smoothing": config.smoothing,
        "soft_targets": soft_targets,
        "multi_label": multi_label,
    }
    if multi_label:
        _check_multi_label(config.method)
    if config.bce_loss or multi_label:
        criterion |= {"loss_type": "bce", "bce_sum": config.bce_sum, "bce_target_thresh": config.bce_target_thresh}
    return METHODS[config.method](model, config, input_size, criterion, images)


def _check_multi_label(method: str) -> None:
    """Refuse rivals that compare distributions over classes, of which an image with several labels has none."""
    if method in _DISTRIBUTIONS:
        others = ", ".join(name for name in METHODS if name not in _DISTRIBUTIONS)
        raise ConfigError(
            f"`method` {method} compares distributions over classes, but the images have several labels; choose one "
            f"of: {others}"
        )
