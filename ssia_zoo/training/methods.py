"""Training objectives by name; each builds a timm training task from a model and the settings of a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from timm.loss import BinaryCrossEntropy, create_classification_loss
from timm.task import ClassificationTask, MultiLabelClassificationTask, TrainingTask
from torch import Tensor, nn

from ssia_zoo.errors import ConfigError
from ssia_zoo.loss import AuxiliaryLoss, ClassWeightedLoss, RivalConfig, SSIAConfig
from ssia_zoo.loss.objectives import RIVALS, Objective, build, check_keywords, find_objective
from ssia_zoo.models.features import TimmModel
from ssia_zoo.models.saving import public_model
from ssia_zoo.task import AuxiliaryTask, SSIATask
from ssia_zoo.training.config import TrainConfig
from ssia_zoo.training.distillation import DISTILLATIONS, check_distillation, create_distillation, load_teacher

_log = logging.getLogger(__name__)

InputSize = tuple[int, int, int]
PerImage = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class TaskInputs:
    """What a training task is built from, beside the model; see `create_task`."""

    config: TrainConfig
    input_size: InputSize
    criterion: nn.Module
    images: int | None
    multi_label: bool
    label_names: Sequence[str]


Method = Callable[[TimmModel, TaskInputs], TrainingTask]


def _vanilla(model: TimmModel, inputs: TaskInputs) -> TrainingTask:
    """Build the control: timm's own task, without any code of this package."""
    task = MultiLabelClassificationTask if inputs.multi_label else ClassificationTask
    return task(model, inputs.criterion, verbose=False)


def _ssia(model: TimmModel, inputs: TaskInputs) -> TrainingTask:
    config, images = inputs.config, inputs.images
    if config.ssia.supervisor == "memory" and images is not None:
        size = 2 * images * int(model.num_classes) / 1e6
        _log.info("memory of predictions: %d images x %d classes, %.1f MB", images, model.num_classes, size)
    if config.ssia.supervisor == "average":
        _log.info("`ssia.supervisor` average: each step makes one more forward pass, of the moving average of `ema`")
    of_labels = [f"`{name}`" for name in ("class_weights", "smoothing") if getattr(config, name)]
    if config.ssia.top and of_labels:
        _log.info(
            "`ssia.top`: %s only for the labels, whose part of the final loss falls to %.0f %% over training",
            *(" and ".join(of_labels), 100 * (1 - config.ssia.share)),
        )
    kwargs: dict[str, Any] = {"input_size": inputs.input_size, "criterion": inputs.criterion}
    return SSIATask(model, config.ssia, images=images, multi_label=inputs.multi_label, **kwargs)


def _auxiliary(loss: type[AuxiliaryLoss], path: str) -> Method:
    """Return the method of an objective other than SSIA."""

    def method(model: TimmModel, inputs: TaskInputs) -> TrainingTask:
        config = inputs.config
        lambda_at = partial(config.rival.lambda_at, default=loss.default_weight)
        objective = partial(build, loss, config.method_kwargs, path)
        return AuxiliaryTask(model, objective, lambda_at, input_size=inputs.input_size, criterion=inputs.criterion)

    return method


def _distillation(model: TimmModel, inputs: TaskInputs) -> TrainingTask:
    config = inputs.config
    teacher = load_teacher(
        str(config.teacher),
        inputs.input_size,
        by_logits=config.method == "logit-kd",
        num_classes=int(model.num_classes),
        label_names=inputs.label_names,
    )
    lambda_at = partial(config.rival.lambda_at, default=1.0)
    return create_distillation(
        config.method, model, teacher, lambda_at, inputs.criterion, inputs.input_size, config.method_kwargs
    )


METHODS: dict[str, Method] = {
    "ssia": _ssia,
    "vanilla": _vanilla,
    **{name: _auxiliary(loss, name) for name, loss in RIVALS.items()},
    **dict.fromkeys(DISTILLATIONS, _distillation),
}


def outside_objective(config: TrainConfig) -> Objective | None:
    """Return the objective of another package that `method` names; None if it is one of this package.

    Raises:
        ConfigError: It cannot be imported, or is not an objective.
    """
    return None if config.method in METHODS else find_objective(config.method)


def check_method(config: TrainConfig) -> None:
    """Check that the objective can be imported and takes the settings of `method_kwargs`, and `teacher`.

    Raises:
        ConfigError: It does not.
    """
    method, keywords = config.method, config.method_kwargs
    if method in DISTILLATIONS:
        check_distillation(config)
    elif config.teacher is not None:
        raise ConfigError(f"`teacher` is for the methods {' and '.join(DISTILLATIONS)}; `method` is {method}")
    elif method in ("ssia", "vanilla"):
        if keywords:
            name = next(iter(keywords))
            hint = f"use `ssia.{name}`" if hasattr(config.ssia, name) and method == "ssia" else "leave it out"
            raise ConfigError(f"`method_kwargs` {name}: `method` {method} takes none; {hint}")
    elif (outside := outside_objective(config)) is not None:
        check_keywords(outside.loss, keywords, outside.path)
    else:
        check_keywords(RIVALS[method], keywords, method)


def describe_objective(config: TrainConfig) -> str | None:
    """Describe an objective other than SSIA for model cards; None for ssia and vanilla."""
    if config.method in RIVALS:
        return RIVALS[config.method].source
    if config.method in DISTILLATIONS:
        return f"{DISTILLATIONS[config.method]} the teacher {public_model(str(config.teacher))}"
    outside = outside_objective(config)
    return None if outside is None else str(outside)


def with_lambda(config: TrainConfig, model: TimmModel) -> TrainConfig:
    """Set lambda for method ssia, by the network where `ssia.weight` is None, and log the form of the loss.

    Settings of the other kind of loss are named in the log, as they have no effect.
    """
    _name_unused(config)
    if config.method != "ssia":
        return config
    ssia = config.ssia.for_model(model)
    form = "label-free" if ssia.labels == 0 else "labels and signal" if not ssia.hands_over else "labels, then signal"
    _log.info("SSIA: %s in the lower layers, supervisor %s, lambda %g", form, ssia.supervisor, ssia.weight)
    return replace(config, ssia=ssia)


def _name_unused(config: TrainConfig) -> None:
    """Log the settings of `ssia` and `rival` that the method does not use; a control shares its file with them."""
    used = "ssia" if config.method == "ssia" else None if config.method == "vanilla" else "rival"
    for group, default in (("ssia", SSIAConfig()), ("rival", RivalConfig())):
        given = getattr(config, group)
        unused = [f"`{group}.{key}`" for key, value in asdict(given).items() if value != getattr(default, key)]
        if unused and group != used:
            _log.info("%s: not used by `method` %s", ", ".join(unused), config.method)


def create_task(
    model: TimmModel,
    config: TrainConfig,
    input_size: InputSize,
    images: int | None = None,
    class_weights: Tensor | None = None,
    *,
    multi_label: bool = False,
    label_names: Sequence[str] = (),
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
        label_names: Names of the classes, matched with those of a teacher.

    Raises:
        ConfigError: The method cannot be built, or does not support this model or several labels an image.
    """
    inputs = TaskInputs(
        config=config,
        input_size=input_size,
        criterion=build_criterion(config, class_weights, multi_label),
        images=images,
        multi_label=multi_label,
        label_names=label_names,
    )
    if (outside := outside_objective(config)) is None:
        return METHODS[config.method](model, inputs)
    _log.info("objective: %s", outside)
    return _auxiliary(outside.loss, outside.path)(model, inputs)


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
    outside = outside_objective(config)
    loss = RIVALS.get(config.method) if outside is None else outside.loss
    if config.method == "logit-kd" or (loss is not None and loss.one_label):
        others = [name for name in METHODS if name != "logit-kd" and not (name in RIVALS and RIVALS[name].one_label)]
        raise ConfigError(
            f"`method` {config.method} compares distributions over classes, but the images have several labels; choose "
            f"one of: {', '.join(others)}"
        )
    for name in ("class_weights", "balanced_sampling", "probe"):
        if getattr(config, name):
            raise ConfigError(f"`{name}` needs one label an image, but the images have several; leave it out")
