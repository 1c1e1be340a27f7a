"""timm training tasks with an auxiliary objective: `SSIATask` and its base class `AuxiliaryTask`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from timm.models import get_model_input_config
from timm.task import ClassificationTask, FeatureDistillationTask, create_classification_loss
from timm.task.distillation import FeatureDistillationTrainableModule
from timm.utils import unwrap_model
from torch import Tensor, nn

from ssia_zoo.errors import ConfigError
from ssia_zoo.loss.base import AuxiliaryLoss, StageShape, describe_terms
from ssia_zoo.loss.memory import PredictionMemory, at_temperature_1, or_present, soft_cross_entropy
from ssia_zoo.loss.processes import broadcast_together
from ssia_zoo.loss.ssia import SSIAConfig, SSIALoss
from ssia_zoo.models.features import (
    TimmModel,
    evaluating,
    forward_stages,
    stage_indices,
    stage_shapes,
    trained_stages,
)

_log = logging.getLogger(__name__)
_CALLS = 100  # with progress 0, before a warning

Criterion = Callable[[Tensor, Any], Tensor]


class AuxiliaryTrainableModule(FeatureDistillationTrainableModule):  # type: ignore[misc]  # timm has no types
    """Student and training-only heads in one module, so that DDP synchronizes both.

    timm's base class provides `no_weight_decay` and `group_matcher`, which `create_optimizer_v2` reads. Its
    `projection` is the auxiliary objective with its heads.

    Args:
        student: A timm classifier.
        loss: The auxiliary objective for the student's stages.
        indices: The student's stages, from `stage_indices`.
        criterion: Task loss of logits and targets, for objectives that use labels.
    """

    def __init__(self, student: TimmModel, loss: AuxiliaryLoss, indices: list[int], criterion: Criterion) -> None:
        super().__init__(student, projection=loss)
        self.indices = indices
        self.criterion = criterion if loss.uses_labels else None

    def forward(
        self, input: Tensor, target: Tensor | None = None, supervisor: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Run the student once and compute the objective.

        Args:
            input: Images [B, C, H, W].
            target: Labels [B], or whatever the criterion takes; for objectives that use labels.
            supervisor: Class distributions [B, num_classes]; for SSIA with supervisor memory or average.

        Returns:
            Logits [B, num_classes] and the objective's scalar terms.
        """
        logits, features = forward_stages(self.student, input, self.indices)
        arguments: list[Any] = []
        if self.criterion is not None:
            arguments.append(lambda prediction: self.criterion(prediction, target))
        extra = {} if supervisor is None else {"supervisor": supervisor}
        return logits, self.projection(features, logits, *arguments, **extra)


class AuxiliaryTask(ClassificationTask):  # type: ignore[misc]  # timm has no types
    """Classification with an auxiliary objective: loss = task loss + lambda(t) * objective.

    Use it as any timm task: optimize `task.trainable_module`, call `task.prepare_distributed()` for DDP or wrap
    `task.trainable_module` yourself, and take the model from `task.get_eval_model()`: it is the bare student, with the
    state_dict of the vanilla model.

    Args:
        model: A timm classifier, trained in place.
        objective: Builds the objective from the stages' shapes and the number of classes.
        lambda_at: Lambda as a function of training progress (0 to 1).
        input_size: Channels, height and width of the training images; the model's own if None.
        criterion: Task loss; built from `criterion_kwargs` by timm's `create_classification_loss` if None.
        criterion_kwargs: For example `{"smoothing": 0.1}`.
        device: Device of the loss; the model's device if None.

    Raises:
        ConfigError: If the model has no classifier or fewer than two stages that train, cannot take images of this
            size, or the objective does not apply to it.
        ValueError: If both `criterion` and `criterion_kwargs` are given.
    """

    trainable_module: Any
    progress: float
    """Fraction of the optimizer steps done (0 to 1). Set it before each step: the default SSIA loss and lambda's
    schedules depend on it."""

    def __init__(
        self,
        model: TimmModel,
        objective: Callable[[Sequence[StageShape], int], AuxiliaryLoss],
        lambda_at: Callable[[float], float],
        *,
        input_size: tuple[int, int, int] | None = None,
        criterion: Criterion | None = None,
        criterion_kwargs: dict[str, Any] | None = None,
        device: torch.device | None = None,
    ) -> None:
        if criterion is not None and criterion_kwargs:
            raise ValueError(f"give criterion or criterion_kwargs, not both; got {sorted(criterion_kwargs)} too")
        device = device or next(model.parameters()).device
        input_size = input_size or get_model_input_config(model)["input_size"]
        indices = _stages(model, input_size)
        shapes = stage_shapes(model, indices, input_size)
        loss = objective(shapes, int(model.num_classes)).to(device)
        # Always an explicit criterion: how timm's task would build one differs between its versions.
        criterion = criterion or create_classification_loss(**(criterion_kwargs or {}))
        super().__init__(model, criterion, device=device, verbose=False)
        self.trainable_module = AuxiliaryTrainableModule(model, loss, indices, self.criterion)
        self.lambda_at = lambda_at
        self.progress = 0.0
        self.objective_name = loss.name
        self._uses_labels = loss.uses_labels
        self._objective_class = f"{type(loss).__module__}:{type(loss).__qualname__}"
        self._terms_checked = False

    # The trainable module is laid out as timm's feature distillation lays out its own: these fit unchanged.
    get_task_state = FeatureDistillationTask.get_task_state
    load_task_state = FeatureDistillationTask.load_task_state
    get_clip_parameters = FeatureDistillationTask.get_clip_parameters

    def forward(self, input: Tensor, target: Tensor, indices: Tensor | None = None) -> dict[str, Tensor]:
        """Compute the training loss.

        Args:
            input: Images [B, C, H, W].
            target: Labels [B], or whatever the criterion takes.
            indices: Row numbers of the training images [B]; used by a task with a memory only.

        Returns:
            "loss" to train on, "output" (logits [B, num_classes]), "task_loss", and the objective's terms; the term
            with the objective's name is their sum, without lambda.
        """
        logits, terms = self._run(input, target)
        return self._result(logits, self.criterion(logits, target), terms)

    def _run(self, input: Tensor, target: Tensor, **extra: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        unwrap_model(self.trainable_module).projection.set_progress(self.progress)
        logits, terms = self.trainable_module(*((input, target) if self._uses_labels else (input,)), **extra)
        if not self._terms_checked:
            if problem := describe_terms(terms, self.objective_name):
                raise ConfigError(f"{self._objective_class}: {problem}")
            self._terms_checked = True
        return logits, terms

    def _result(self, logits: Tensor, task_loss: Tensor, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        loss = task_loss + self.lambda_at(self.progress) * terms[self.objective_name]
        return {"loss": loss, "output": logits, "task_loss": task_loss, **terms}

    def compile(self, backend: str = "inductor", mode: str | None = None, **compile_kwargs: Any) -> Any:
        """Compile the trainable module and, for evaluation, the student; return the compiled student."""
        student = self.get_eval_model()
        super().compile(backend=backend, mode=mode, **compile_kwargs)
        self.eval_model = torch.compile(student, backend=backend, mode=mode, **compile_kwargs)
        return self.eval_model

    def get_eval_model(self, module: nn.Module | None = None, ema: bool = False) -> Any:
        """Return the bare student, or its moving average: the model to evaluate, save and publish."""
        resolved = super().get_eval_model(module=module, ema=ema)
        unwrapped = unwrap_model(resolved)
        return unwrapped.student if isinstance(unwrapped, AuxiliaryTrainableModule) else resolved


def _stages(model: TimmModel, input_size: tuple[int, int, int]) -> list[int]:
    """Choose the stages that get heads: those that train."""
    indices = stage_indices(model)
    trained = trained_stages(model, indices, input_size)
    if frozen := len(indices) - len(trained):
        if len(trained) < 2:
            raise ConfigError(
                f"{frozen} of the {len(indices)} stages of {type(model).__name__} are frozen, which leaves fewer than "
                "the 2 that an auxiliary objective needs; freeze less, or set `method` to vanilla"
            )
        _log.info("%d of %d stages are frozen and get no training-only heads", frozen, len(indices))
    return trained


class SSIATask(AuxiliaryTask):
    """Classification with the SSIA loss: loss = task loss + lambda(t) * SSIA loss.

    With `supervisor="average"`, call `setup_ema` before the first step and `update_ema` after each, as timm's train.py
    does.

    Args:
        model: A timm classifier, trained in place.
        config: Settings of the SSIA loss.
        images: Number of training images; required with `supervisor="memory"`, whose `forward` takes their indices.
        multi_label: Whether images have several labels; targets are then vectors of 0 and 1 [B, num_classes], for a
            criterion such as `criterion_kwargs={"multi_label": True}`.
        **kwargs: `input_size`, `criterion`, `criterion_kwargs` and `device`, as in `AuxiliaryTask`.

    Raises:
        ConfigError: If the model has no classifier or fewer than two stages, cannot take images of this size, no stage
            can give the requested signals, or `images` is missing.

    Examples:
        >>> import timm, torch
        >>> task = SSIATask(timm.create_model("test_resnet", num_classes=10), input_size=(3, 64, 64))
        >>> result = task(torch.randn(2, 3, 64, 64), torch.tensor([1, 2]))
        >>> sorted(result)
        ['labels', 'loss', 'output', 'semantic', 'ssia', 'task_loss']
    """

    def __init__(
        self,
        model: TimmModel,
        config: SSIAConfig | None = None,
        *,
        images: int | None = None,
        multi_label: bool = False,
        **kwargs: Any,
    ) -> None:
        config = (config or SSIAConfig()).for_model(model)
        objective = partial(SSIALoss, config=config, multi_label=multi_label)
        super().__init__(model, objective, config.lambda_at, **kwargs)
        self.config = config
        self.memory: PredictionMemory | None = None
        if config.supervisor == "memory":
            if images is None:
                raise ConfigError(
                    "`ssia.supervisor` is memory, which needs the number of training images; give images=N"
                )
            self.memory = PredictionMemory(
                images,
                int(model.num_classes),
                config.momentum,
                temperature=config.temperature,
                device=self.device,
            )
        self._calls_without_progress = 0

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> SSIATask:
        super()._apply(fn, *args, **kwargs)
        if self.memory is not None:
            self.memory.table = self.memory.table.to(self.device)
        return self

    def get_task_state(self, module: nn.Module | None = None, ema: bool = False) -> dict[str, Any]:
        """Return what a checkpoint needs beside the model's state_dict: the heads' state, and the memory's."""
        state = super().get_task_state(module, ema)
        return state if self.memory is None or ema else {**state, "memory": self.memory.state_dict()}

    def load_task_state(
        self, state: dict[str, Any] | None, strict: bool = True, module: nn.Module | None = None, ema: bool = False
    ) -> None:
        """Load the result of `get_task_state`.

        Raises:
            ValueError: The memory is of another number of images or classes, or is missing.
        """
        super().load_task_state(state, strict, module, ema)
        if self.memory is None or ema or not state:
            return
        if "memory" in state:
            self.memory.load_state_dict(state["memory"])
        elif strict:
            raise ValueError("the checkpoint has no memory of predictions; load one of a task with a memory")

    def forward(self, input: Tensor, target: Tensor, indices: Tensor | None = None) -> dict[str, Tensor]:
        """Compute the training loss as `AuxiliaryTask.forward` does; with a memory, `indices` [B] is required.

        In eval mode, the memory is read and not updated.
        """
        self._warn_without_progress()
        if self.config.supervisor == "now":
            return super().forward(input, target)
        if self.memory is None:
            return self._supervised(input, target, self._predict_by_average(input))
        if indices is None:
            raise ConfigError(
                "`ssia.supervisor` is memory, which needs the images' indices; give them as third argument"
            )
        result = self._supervised(input, target, self.memory.read(indices))
        if self.training:
            self.memory.update(indices, result["output"])
        return result

    def _warn_without_progress(self) -> None:
        """Warn once if many training steps were taken and `progress` is still 0."""
        if self.progress > 0 or not self.training or not self.config.changes_over_training:
            return
        self._calls_without_progress += 1
        if self._calls_without_progress == _CALLS:
            _log.warning(
                "%d training steps with task.progress = 0: the network's own signal, or lambda's schedule, does not "
                "begin; set task.progress to the fraction of training done before each step",
                _CALLS,
            )

    def _supervised(self, input: Tensor, target: Tensor, supervisor: Tensor) -> dict[str, Tensor]:
        """Compute the training loss with these class distributions [B, num_classes] as the supervisor."""
        logits, terms = self._run(input, target, supervisor=supervisor)
        task_loss = self.criterion(logits, target)
        if self.config.top:
            share, temperature = self.config.share * self.progress, self.config.temperature
            wanted = at_temperature_1(or_present(supervisor, logits, temperature), temperature)
            task_loss = (1 - share) * task_loss + share * soft_cross_entropy(logits, wanted)
        return self._result(logits, task_loss, terms)

    def _predict_by_average(self, input: Tensor) -> Tensor:
        """Return the moving average's class distributions [B, num_classes] at the temperature, without gradients."""
        if not self.has_ema():
            raise ConfigError("`ssia.supervisor` is average, which needs a moving average; call task.setup_ema first")
        average = self.get_eval_model(ema=True)
        with evaluating(average), torch.no_grad():
            return torch.softmax(average(input).float() / self.config.temperature, dim=1)

    def update_ema(self, step: int | None = None) -> None:
        """Update the moving average; a supervisor's BatchNorm statistics are those of the first process in all."""
        super().update_ema(step)
        if self.config.supervisor == "average" and self.has_ema():
            buffers = self.get_trainable_module(ema=True).buffers()
            broadcast_together([buffer for buffer in buffers if buffer.is_floating_point()])  # BatchNorm's statistics
