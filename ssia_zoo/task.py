"""timm training tasks that add an auxiliary objective to any timm classifier: `SSIATask`, and its base for rivals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from timm.models._input import get_model_input_config
from timm.task import TrainingTask
from timm.task.classification import resolve_classification_loss
from timm.task.distillation import FeatureDistillationTrainableModule
from timm.utils.model import unwrap_model
from torch import Tensor, nn

from ssia_zoo.errors import ConfigError
from ssia_zoo.loss.base import AuxiliaryLoss, StageShape
from ssia_zoo.loss.memory import PredictionMemory, or_present, soft_cross_entropy
from ssia_zoo.loss.ssia import SSIAConfig, SSIALoss
from ssia_zoo.models.features import TimmModel, forward_stages, stage_indices, stage_shapes

Criterion = Callable[[Tensor, Any], Tensor]


class AuxiliaryTrainableModule(FeatureDistillationTrainableModule):  # type: ignore[misc]  # timm has no types
    """Student and training-only heads in one module, so that DDP synchronises all of it.

    timm's module for feature distillation brings what optimizers ask for (`no_weight_decay`, `group_matcher`); here its
    projection is the auxiliary objective with its heads.

    Args:
        student: A timm classifier.
        loss: The auxiliary objective for the student's stages.
        indices: The student's stages, as given by `stage_indices`.
        criterion: Task loss, of logits and targets; for objectives that use labels.
    """

    def __init__(self, student: TimmModel, loss: AuxiliaryLoss, indices: list[int], criterion: Criterion) -> None:
        super().__init__(student, projection=loss)
        self.indices = indices
        self.criterion = criterion if loss.uses_labels else None

    def forward(
        self, input: Tensor, target: Tensor | None = None, remembered: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Run the student once.

        Args:
            input: Images [B, C, H, W].
            target: Labels [B], or whatever the criterion takes; only for objectives that use labels.
            remembered: Earlier predictions [B, num_classes]; only for SSIA with a memory.

        Returns:
            Logits [B, num_classes] and the objective's scalar terms.
        """
        logits, features = forward_stages(self.student, input, self.indices)
        arguments: list[Any] = []
        if self.criterion is not None:
            arguments.append(lambda prediction: self.criterion(prediction, target))
        extra = {} if remembered is None else {"remembered": remembered}
        return logits, self.projection(features, logits, *arguments, **extra)


class AuxiliaryTask(TrainingTask):  # type: ignore[misc]  # timm has no types
    """Classification with an auxiliary objective: loss = task loss + lambda(t) * objective.

    `task.trainable_module` is what is optimized and wrapped for distributed training; `task.get_eval_model()` is the
    bare student, whose state_dict is that of the vanilla model.

    Args:
        model: Any timm classifier; it is trained in place.
        objective: Makes the objective from the stages' shapes and the class count.
        weight_at: Lambda as a function of the share of optimizer steps done, from 0 to 1.
        input_size: Channels, height, width of the training images; the model's own if None.
        criterion: Task loss; made from `criterion_kwargs` by timm's `create_classification_loss` if None.
        criterion_kwargs: For example `{"smoothing": 0.1}`.
        device: Where the loss is computed; the model's device if None.

    Raises:
        ConfigError: If the model has no classifier or fewer than two stages, cannot take images of this size, or the
            objective cannot be applied to it.
    """

    trainable_module: Any
    progress: float
    """Share of optimizer steps done, from 0 to 1; the training loop sets it, lambda's schedule reads it."""

    def __init__(
        self,
        model: TimmModel,
        objective: Callable[[Sequence[StageShape], int], AuxiliaryLoss],
        weight_at: Callable[[float], float],
        *,
        input_size: tuple[int, int, int] | None = None,
        criterion: Criterion | None = None,
        criterion_kwargs: dict[str, Any] | None = None,
        device: torch.device | None = None,
    ) -> None:
        device = device or next(model.parameters()).device
        super().__init__(device=device, verbose=False)
        self.weight_at = weight_at
        self.progress = 0.0
        indices = stage_indices(model)
        shapes = stage_shapes(model, indices, input_size or get_model_input_config(model)["input_size"])
        loss = objective(shapes, int(model.num_classes)).to(device)
        self.objective_name = loss.name
        self.criterion = resolve_classification_loss(criterion, device, criterion_kwargs=criterion_kwargs)
        self.trainable_module = AuxiliaryTrainableModule(model, loss, indices, self.criterion)
        self._uses_labels = loss.uses_labels

    def forward(self, input: Tensor, target: Tensor, indices: Tensor | None = None) -> dict[str, Tensor]:
        """Compute the training loss.

        Args:
            input: Images [B, C, H, W].
            target: Labels [B], or whatever the criterion takes.
            indices: Rows of the training images [B]; only a task with a memory looks at them.

        Returns:
            "loss" to train on, "output" (logits [B, num_classes]), and the parts: "task_loss" and the objective's
            terms, among them the whole of it under its name, without lambda.
        """
        logits, terms = self._run(input, target)
        return self._result(logits, self.criterion(logits, target), terms)

    def _run(self, input: Tensor, target: Tensor, **extra: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        self._module().projection.set_progress(self.progress)
        logits, terms = self.trainable_module(*((input, target) if self._uses_labels else (input,)), **extra)
        return logits, terms

    def _result(self, logits: Tensor, task_loss: Tensor, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        loss = task_loss + self.weight_at(self.progress) * terms[self.objective_name]
        return {"loss": loss, "output": logits, "task_loss": task_loss, **terms}

    def prepare_distributed(self, device_ids: list[int] | None = None, **ddp_kwargs: Any) -> AuxiliaryTask:
        """Wrap student and heads in DDP; for loops other than Accelerate's, which wraps `trainable_module` itself."""
        ddp = nn.parallel.DistributedDataParallel
        self.trainable_module = ddp(self.trainable_module, device_ids=device_ids, **ddp_kwargs)
        return self

    def compile(self, backend: str = "inductor", mode: str | None = None, **compile_kwargs: Any) -> Any:
        """Compile the training step's module and the student that is evaluated.

        Returns:
            The compiled student.
        """
        self.eval_model = torch.compile(self._module().student, backend=backend, mode=mode, **compile_kwargs)
        self.trainable_module = torch.compile(self.trainable_module, backend=backend, mode=mode, **compile_kwargs)
        return self.eval_model

    def get_eval_model(self, module: nn.Module | None = None, ema: bool = False) -> Any:
        """The bare student (or its EMA copy): what is evaluated, saved and published."""
        resolved = super().get_eval_model(module=module, ema=ema)
        unwrapped = unwrap_model(resolved)
        return unwrapped.student if isinstance(unwrapped, AuxiliaryTrainableModule) else resolved

    def get_task_state(self, module: nn.Module | None = None, ema: bool = False) -> dict[str, Any]:
        """State of the training-only heads, which is no part of the student's."""
        module = module if module is not None else self.get_trainable_module(ema=ema)
        return {} if module is None else {self.objective_name: unwrap_model(module).projection.state_dict()}

    def load_task_state(
        self,
        state: dict[str, Any] | None,
        strict: bool = True,
        module: nn.Module | None = None,
        ema: bool = False,
    ) -> None:
        """Load what `get_task_state` gave."""
        module = module if module is not None else self.get_trainable_module(ema=ema)
        if state and module is not None:
            unwrap_model(module).projection.load_state_dict(state[self.objective_name], strict=strict)

    def get_clip_parameters(self, exclude_head: bool = False) -> Iterator[nn.Parameter]:
        """Parameters whose gradients are clipped: the student's (without its classifier, if asked) and the heads'."""
        student = list(self._module().student.parameters())
        yield from student[:-2] if exclude_head else student
        yield from self._module().projection.parameters()

    def _module(self) -> Any:
        return unwrap_model(self.trainable_module)


class SSIATask(AuxiliaryTask):
    """Classification with the SSIA loss: loss = task loss + lambda(t) * SSIA loss.

    Args:
        model: Any timm classifier; it is trained in place.
        config: Choices of the SSIA loss.
        images: Number of training images; must be given with supervisor memory, whose `forward` needs their indices.
        **kwargs: As `AuxiliaryTask` takes them: `input_size`, `criterion`, `criterion_kwargs`, `device`.

    Raises:
        ConfigError: If the model has no classifier or fewer than two stages, cannot take images of this size, no stage
            can give the signals asked for, or the number of images that a memory needs is not given.

    Examples:
        >>> import timm, torch
        >>> task = SSIATask(timm.create_model("test_resnet", num_classes=10), input_size=(3, 64, 64))
        >>> result = task(torch.randn(2, 3, 64, 64), torch.tensor([1, 2]))
        >>> sorted(result)
        ['loss', 'output', 'semantic', 'ssia', 'task_loss']
    """

    def __init__(
        self, model: TimmModel, config: SSIAConfig | None = None, *, images: int | None = None, **kwargs: Any
    ) -> None:
        config = config or SSIAConfig()
        super().__init__(model, partial(SSIALoss, config=config), config.lambda_at, **kwargs)
        self.config = config
        self.memory: PredictionMemory | None = None
        if config.supervisor == "memory":
            if images is None:
                raise ConfigError("ssia.supervisor is memory, which needs the number of training images; give images=N")
            self.memory = PredictionMemory(images, int(model.num_classes), config.momentum, self.device)

    def forward(self, input: Tensor, target: Tensor, indices: Tensor | None = None) -> dict[str, Tensor]:
        """Compute the training loss, as `AuxiliaryTask.forward`; with a memory, `indices` [B] must be given."""
        if self.memory is None:
            return super().forward(input, target)
        if indices is None:
            raise ConfigError("ssia.supervisor is memory, which needs the images' indices; give them as third argument")
        remembered = self.memory.read(indices)
        logits, terms = self._run(input, target, remembered=remembered)
        task_loss = self.criterion(logits, target)
        if self.config.top:
            given = self.config.share * self.progress
            task_loss = (1 - given) * task_loss + given * soft_cross_entropy(logits, or_present(remembered, logits))
        self.memory.update(indices, logits)
        return self._result(logits, task_loss, terms)
