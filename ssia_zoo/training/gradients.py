"""The end of an optimizer step: gradients clipped, applied if they are finite, and counted if they are not."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from timm.utils import dispatch_clip_grad
from timm.utils.model import unwrap_model
from torch import Tensor
from torch.distributed.tensor import DTensor

from ssia_zoo.errors import TrainingError
from ssia_zoo.training.run import Run
from ssia_zoo.training.signals import agree

_MAX_SKIPPED_IN_A_ROW = 20


def optimizer_step(run: Run) -> None:
    """Clip the gradients and step, or skip the step and count it where they or the loss are not finite.

    Here the processes also agree on whether to stop after this step, so that both cost one all-reduce.

    Raises:
        TrainingError: If steps are skipped without end, or running statistics are spoiled.
    """
    norm = _clipped_norm(run)  # equal in every process, as gradients are averaged by now; losses are not
    run.stop_signal, loss_lost = agree(run.accelerator, run.stop.received, int(run.loss_lost))
    run.loss_lost.zero_()
    finite = math.isfinite(norm) and not loss_lost
    scaler = run.accelerator.scaler
    if finite or (
        scaler is not None and not math.isfinite(norm)
    ):  # a scaler skips this step itself, and learns from it
        run.optimizer.step()
    elif scaler is not None:
        scaler.update(scaler.get_scale())  # it sees gradients alone, which are finite: end its step without taking it
    run.optimizer.zero_grad()
    run.position.skipped_in_a_row = 0 if finite else run.position.skipped_in_a_row + 1
    run.position.skipped += not finite
    if not finite:
        _stop_if_hopeless(run)


def is_finite(module: torch.nn.Module) -> bool:
    """Whether a module's parameters (this process's share of them) and buffers hold no NaN and no infinity."""
    local = (t.to_local() if isinstance(t, DTensor) else t for t in module.state_dict().values())
    return all(bool(torch.isfinite(tensor).all()) for tensor in local)


def _clipped_norm(run: Run) -> float:
    """Total norm of the gradients before they are clipped.

    Student and heads are clipped apart, so that a control is clipped alike; AGC leaves the classifier out, as in timm.
    """
    value, mode, module = run.config.clip_grad, run.config.clip_mode, run.task.trainable_module
    if value is None:
        return _norm(module.parameters())
    run.accelerator.unscale_gradients()
    student = list(unwrap_model(run.task.get_eval_model()).parameters())
    of_student = {id(parameter) for parameter in student}
    heads = [parameter for parameter in module.parameters() if id(parameter) not in of_student]
    parts = [part for part in (student, heads) if part]
    if mode == "norm":
        norms = [_whole(torch.nn.utils.clip_grad_norm_(part, value)) for part in parts]
        return float(torch.stack(norms).norm())
    norm = _norm(module.parameters())
    for part in parts:
        dispatch_clip_grad(part[:-2] if mode == "agc" and part is student else part, value, mode=mode)
    return norm


def _norm(parameters: Iterable[torch.nn.Parameter]) -> float:
    return float(_whole(torch.nn.utils.get_total_norm(p.grad for p in parameters if p.grad is not None)))


def _whole(norm: Tensor) -> Tensor:
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def _stop_if_hopeless(run: Run) -> None:
    """Give up on a run whose steps are skipped without end, or whose running statistics a bad batch has spoiled."""
    checkpoints = f"the last good checkpoint, if there is one, is in {run.folder.checkpoints}"
    position = run.position
    if position.skipped_in_a_row >= _MAX_SKIPPED_IN_A_ROW:
        raise TrainingError(
            f"loss or gradients were not finite in {position.skipped_in_a_row} steps in a row, up to step "
            f"{position.step}; lower --lr or set --clip-grad; {checkpoints}"
        )
    if not all(bool(torch.isfinite(buffer).all()) for buffer in run.task.trainable_module.buffers()):
        raise TrainingError(
            f"a batch at step {run.position.step} was not finite and spoiled the model's running statistics; look for "
            f"a bad image, or lower --lr; {checkpoints}"
        )
