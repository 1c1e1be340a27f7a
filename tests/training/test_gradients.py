"""Clipping limits what its mode says, and heads do not change how the student is clipped."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from timm.utils.agc import unitwise_norm
from timm.utils.model import unwrap_model

from ssia_zoo.training.checkpoint import TrainState
from ssia_zoo.training.config import TrainConfig
from ssia_zoo.training.gradients import _clip, optimizer_step
from ssia_zoo.training.health import StepHealth
from ssia_zoo.training.methods import create_task
from ssia_zoo.training.optimization import build_optimizer, skips_by_itself
from tests.helpers.runs import same_weights, small_run


def clipped(mode: str, value: float | None, method: str) -> tuple[float, dict[str, torch.Tensor], torch.nn.Module]:
    """Return the norm before clipping, the student's gradients after it, and the student."""
    torch.manual_seed(0)
    config = TrainConfig(clip_grad=value, clip_mode=mode, method=method)
    task = create_task(timm.create_model("test_resnet", num_classes=10), config, (3, 64, 64))
    for name, parameter in task.trainable_module.named_parameters():
        generator = torch.Generator().manual_seed(sum(name.removeprefix("student.").encode()))
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    run = SimpleNamespace(config=config, task=task, accelerator=Accelerator())
    norm = float(_clip(run))  # type: ignore[arg-type]
    student = unwrap_model(task.get_eval_model())
    return norm, {name: p.grad for name, p in student.named_parameters()}, student


@pytest.mark.covers("clip_grad", "clip_mode")
@pytest.mark.parametrize("method", ["ssia", "vanilla"])
def test_each_mode_limits_what_it_says(method: str) -> None:
    _, gradients, _ = clipped("norm", 0.5, method)
    assert torch.nn.utils.get_total_norm(gradients.values()) == pytest.approx(0.5, rel=1e-3)
    norm, gradients, _ = clipped("value", 0.5, method)
    assert max(float(g.abs().max()) for g in gradients.values()) == 0.5
    assert norm > 10, "the norm that is looked at is that before clipping"
    _, gradients, student = clipped("agc", 0.01, method)
    *_, weight, bias = student.named_parameters()
    for name, parameter in student.named_parameters():
        limit = 0.01 * unitwise_norm(parameter.detach()).clamp(min=1e-3)
        within = bool((unitwise_norm(gradients[name]) <= limit * 1.001).all())
        assert within == (name not in (weight[0], bias[0])), "all but the classifier, which timm leaves out"


@pytest.mark.parametrize(("mode", "value"), [("norm", 0.5), ("value", 0.5), ("agc", 0.01), ("norm", None)])
def test_heads_change_nothing_about_the_students_clipping(mode: str, value: float | None) -> None:
    _, with_heads, _ = clipped(mode, value, "ssia")
    _, without, _ = clipped(mode, value, "vanilla")
    assert all(torch.equal(with_heads[name], gradient) for name, gradient in without.items())


@pytest.mark.parametrize(
    "more",
    [
        {"clip_grad": 0.05},
        {"clip_grad": 0.001, "clip_mode": "value"},
        {"clip_grad": 0.01, "clip_mode": "agc", "layer_decay": 0.7},
        {"bce_loss": True, "bce_sum": True, "mixup": 0.2, "mixup_off_epoch": 1, "drop_path_rate": 0.2},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_lambda_zero_is_vanilla_to_the_bit_whatever_is_set(tmp_path: Path, more: dict[str, object]) -> None:
    short = {"max_train_images": 32, "val_interval": 0}
    small_run(tmp_path / "zero", **{"ssia.weight": 0.0}, **short, **more)
    small_run(tmp_path / "vanilla", method="vanilla", **short, **more)
    assert same_weights(tmp_path / "zero", tmp_path / "vanilla")


class Scaled:
    """What `optimizer_step` uses of a run in float16, with torch's scaler, which works on CPUs too."""

    def __init__(self, clip_grad: float | None, fused: bool) -> None:
        torch.manual_seed(0)
        self.config = TrainConfig(clip_grad=clip_grad, method="vanilla")
        self.task = create_task(timm.create_model("test_resnet", num_classes=10), self.config, (3, 64, 64))
        self.accelerator = Accelerator()
        self.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        sgd = torch.optim.SGD(self.task.trainable_module.parameters(), lr=0.1, fused=fused)
        self.optimizer = AcceleratedOptimizer(sgd, scaler=self.accelerator.scaler)
        self.accelerator._optimizers.append(self.optimizer)
        self.state = TrainState()
        self.stop = SimpleNamespace(received=0)
        self.health = StepHealth(self.state, torch.device("cpu"), processes=1)
        self.folder = SimpleNamespace(checkpoints="checkpoints")

    def step(self, loss_lost: bool, overflow: bool = False) -> bool:
        """Take a step and return whether it changed the weights."""
        before = [parameter.detach().clone() for parameter in self.task.trainable_module.parameters()]
        loss = self.task(torch.randn(2, 3, 64, 64), torch.tensor([1, 2]))["loss"]
        self.accelerator.scaler.scale(loss).backward()
        if overflow:
            next(self.task.trainable_module.parameters()).grad.fill_(math.inf)
        self.health.add_loss(torch.tensor(math.nan if loss_lost else 1.0))
        optimizer_step(self)  # type: ignore[arg-type]
        return not all(torch.equal(p, b) for p, b in zip(self.task.trainable_module.parameters(), before, strict=True))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("clip_grad", [None, 1.0])
def test_a_scaled_step_whose_loss_is_lost_is_not_taken_though_its_gradients_are_finite(
    clip_grad: float | None, fused: bool
) -> None:
    run = Scaled(clip_grad, fused)
    assert run.step(loss_lost=False)
    assert not run.step(loss_lost=True)
    assert run.state.skipped == 1
    assert run.accelerator.scaler.get_scale() == 1024.0
    assert run.step(loss_lost=False), "the scaler is ready for the next step"
    assert not run.step(loss_lost=False, overflow=True)
    assert run.accelerator.scaler.get_scale() == 512.0, "it learns of gradients that overflow"
    assert run.state.skipped == 2
    assert run.step(loss_lost=False)


class Plain:
    """What `optimizer_step` uses of a run in float32."""

    def __init__(self, **settings: object) -> None:
        torch.manual_seed(0)
        self.config = TrainConfig(method="vanilla", lr=0.1, **settings)
        self.task = create_task(timm.create_model("test_vit", num_classes=10, img_size=32), self.config, (3, 32, 32))
        self.accelerator = Accelerator()
        self.optimizer = self.accelerator.prepare(build_optimizer(self.config, self.task.trainable_module))
        self.state = TrainState()
        self.stop = SimpleNamespace(received=0)
        self.health = StepHealth(self.state, torch.device("cpu"), processes=1)
        self.folder = SimpleNamespace(checkpoints="checkpoints")

    def step(self, number: int, bad: str = "") -> None:
        """Take a step with gradients that depend on the number alone; "loss" or "gradient" is not finite."""
        for place, parameter in enumerate(self.task.trainable_module.parameters()):
            generator = torch.Generator().manual_seed(1000 * number + place)
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        if bad == "gradient":
            parameter.grad.view(-1)[0] = math.nan
        self.health.add_loss(torch.tensor(math.inf if bad == "loss" else 1.0))
        optimizer_step(self)  # type: ignore[arg-type]

    def tensors(self) -> list[torch.Tensor]:
        """Return copies of all weights and of all state of the optimizer."""
        state = self.optimizer.state_dict()["state"]
        kept = [value for values in state.values() for value in values.values() if isinstance(value, torch.Tensor)]
        return [tensor.detach().clone() for tensor in (*self.task.trainable_module.parameters(), *kept)]


@pytest.mark.parametrize("bad", ["loss", "gradient"])
@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd", "momentum", "lamb"])
def test_a_step_that_is_not_finite_changes_neither_weights_nor_the_optimizers_state(optimizer: str, bad: str) -> None:
    run, without = Plain(optimizer=optimizer, clip_grad=1.0), Plain(optimizer=optimizer, clip_grad=1.0)
    run.step(0, bad)  # the first one, before the optimizer has a state
    for number in (1, 2):
        run.step(number)
        without.step(number)
    before = run.tensors()
    run.step(3, bad)
    assert all(torch.equal(a, b) for a, b in zip(run.tensors(), before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(run.tensors(), without.tensors(), strict=True)), "as if it were not"
    assert (run.state.skipped, run.state.skipped_in_a_row) == (2, 1)


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd", "momentum"])
def test_fused_and_plain_steps_are_equal_to_rounding(optimizer: str) -> None:
    fused, plain = Plain(optimizer=optimizer), Plain(optimizer=optimizer, opt_kwargs={"fused": False})
    for number in range(3):
        fused.step(number)
        plain.step(number)
    assert skips_by_itself(fused.optimizer)
    assert not skips_by_itself(plain.optimizer)
    for one, other in zip(
        fused.task.trainable_module.parameters(), plain.task.trainable_module.parameters(), strict=True
    ):
        torch.testing.assert_close(one, other)
