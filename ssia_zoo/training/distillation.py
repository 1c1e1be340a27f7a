"""Distillation from a teacher, by timm's own tasks: an upper reference for objectives without one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from timm.models import resolve_model_input_args
from timm.task import FeatureDistillationTask, LogitDistillationTask
from timm.task.distillation import FeatureDistillationTrainableModule
from timm.utils import unwrap_model
from torch import Tensor, nn

from ssia_zoo.data.preprocessing import model_preprocessing
from ssia_zoo.errors import ClassesError, ConfigError, SSIAZooError, did_you_mean
from ssia_zoo.models.features import TimmModel, try_blank_image
from ssia_zoo.models.label_names import match_model
from ssia_zoo.models.loading import create_checked, timm_name
from ssia_zoo.training.config import TrainConfig

_log = logging.getLogger(__name__)

DISTILLATIONS = {
    "logit-kd": "Distilling the Knowledge in a Neural Network (arXiv 1503.02531), timm's LogitDistillationTask, from",
    "feature-kd": "distillation of pooled features, timm's FeatureDistillationTask, from",
}
"""Methods that learn from a teacher, and how model cards describe them."""

_SETTINGS = {"logit-kd": ("temperature", "task_loss_weight"), "feature-kd": ("task_loss_weight",)}
"""Arguments of timm's tasks that `method_kwargs` may set; lambda is `rival.weight`."""


class _Scheduled:
    """Mixin for timm's distillation tasks: the weight of the distillation loss follows lambda's schedule."""

    lambda_at: Callable[[float], float]
    progress: float = 0.0
    """Fraction of the optimizer steps done (0 to 1)."""

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Compute the training loss as timm's task does."""
        self.distill_loss_weight = self.lambda_at(self.progress)
        result: dict[str, Tensor] = super().forward(input, target)  # type: ignore[misc]
        return result


class ScheduledLogitDistillation(_Scheduled, LogitDistillationTask):  # type: ignore[misc]  # timm has no types
    """loss = task loss + lambda(t) * T^2 * KL divergence of the student's from the teacher's softmax(z / T)."""


class ScheduledFeatureDistillation(_Scheduled, FeatureDistillationTask):  # type: ignore[misc]  # timm has no types
    """loss = task loss + lambda(t) * mean squared error between the pooled features of teacher and student."""

    def get_eval_model(self, module: nn.Module | None = None, ema: bool = False) -> Any:
        """Return the bare student, or its moving average, also of a compiled module."""
        unwrapped = unwrap_model(super().get_eval_model(module=module, ema=ema))
        return unwrapped.student if isinstance(unwrapped, FeatureDistillationTrainableModule) else unwrapped


class _Outputs(nn.Module):
    """A teacher's logits for the classes of the data, in the data's order."""

    rows: Tensor

    def __init__(self, model: TimmModel, rows: Sequence[int]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("rows", torch.tensor(rows), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits[:, self.rows]


def check_distillation(config: TrainConfig) -> None:
    """Check the settings of a method that learns from a teacher.

    Raises:
        ConfigError: `teacher` is missing, or a setting is unknown.
    """
    if config.teacher is None:
        raise ConfigError(f"`method` {config.method} requires `teacher`: a trained model by name, or its folder")
    known = _SETTINGS[config.method]
    for name, value in config.method_kwargs.items():
        if name not in known:
            hint = did_you_mean(name, known, f"it takes {', '.join(known)}; lambda is `rival.weight`")
            raise ConfigError(f"`method_kwargs` {name}: is not a setting of {config.method}; {hint}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise ConfigError(f"`method_kwargs` {name}={value!r}; expected a number greater than 0")


def load_teacher(
    name: str,
    input_size: tuple[int, int, int],
    *,
    num_classes: int,
    label_names: Sequence[str],
    by_logits: bool,
) -> nn.Module:
    """Load a teacher and check that it takes the images and, for its logits, knows the classes.

    Args:
        name: As in `ssia_zoo.models.loading.load_model`.
        input_size: Channels, height, width of the training images.
        num_classes: Number of classes in the data.
        label_names: Their names, matched with the teacher's; by position if there are none.
        by_logits: Whether its logits are learned, rather than its features.

    Raises:
        SSIAZooError: It cannot be loaded, does not take these images, or lacks a class.
    """
    channels, *size = input_size
    try:
        source = timm_name(name)
        img_size = resolve_model_input_args(source, {"img_size": tuple(size)}).get("img_size")
        model = create_checked(source, img_size=img_size, in_chans=channels)
    except SSIAZooError as error:
        raise type(error)(f"`teacher` {name}: {error}") from error
    try_blank_image(model, input_size, name=f"`teacher` {name}")
    model.requires_grad_(False)
    if not by_logits:
        return model  # type: ignore[no-any-return]
    if not label_names:
        if model.num_classes != num_classes:
            raise ClassesError(f"`teacher` {name}: has {model.num_classes} classes, and the data {num_classes}")
        return model  # type: ignore[no-any-return]
    try:
        rows = match_model(model, label_names, "the training data")
    except ClassesError as error:
        raise ClassesError(f"`teacher` {name}: {error}") from error
    return model if rows is None else _Outputs(model, rows)


def create_distillation(
    method: str,
    student: TimmModel,
    teacher: nn.Module,
    lambda_at: Callable[[float], float],
    criterion: nn.Module,
    input_size: tuple[int, int, int],
    settings: Mapping[str, Any],
) -> LogitDistillationTask | FeatureDistillationTask:
    """Build timm's task, with lambda as the weight of the distillation loss.

    Args:
        method: A key of `DISTILLATIONS`.
        student: A timm classifier, trained in place.
        teacher: Result of `load_teacher`.
        lambda_at: Lambda as a function of training progress (0 to 1).
        criterion: Task loss.
        input_size: Channels, height, width of the training images.
        settings: Arguments of timm's task.

    Raises:
        ConfigError: timm cannot compute pooled features of one of the models.
    """
    kind = ScheduledLogitDistillation if method == "logit-kd" else ScheduledFeatureDistillation
    arguments: dict[str, Any] = {"task_loss_weight": 1.0, **settings, "distill_loss_weight": lambda_at(0.0)}
    with torch.random.fork_rng(devices=[]):  # for the projection of features
        task = kind(student, teacher, criterion, verbose=False, **arguments)
    task.lambda_at = lambda_at
    bare = teacher.model if isinstance(teacher, _Outputs) else teacher
    for model, names in ((student, ("student_mean", "student_std")), (bare, ("mean_kd", "std_kd"))):
        owner = task if model is student else task.teacher
        preprocessing = model_preprocessing(model)  # with as many channels as the images
        for buffer, values in zip(names, (preprocessing.mean, preprocessing.std), strict=True):
            setattr(owner, buffer, torch.tensor(values, device=task.device).view(1, -1, 1, 1))
    if method == "feature-kd":
        try_blank_image(student, input_size, task.trainable_module, name="`method` feature-kd: the student")
        try_blank_image(bare, input_size, task.teacher._forward_features, name="`method` feature-kd: the teacher")
    _log.info("teacher: %s, %.1f M parameters", type(bare).__name__, sum(p.numel() for p in bare.parameters()) / 1e6)
    return task
