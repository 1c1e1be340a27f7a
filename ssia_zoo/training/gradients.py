"""Take an optimizer step: clip the gradients, apply them if they are finite, skip and count the step if not."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from timm.utils import dispatch_clip_grad, unwrap_model
from torch import Tensor
from torch.distributed.tensor import DTensor

from ssia_zoo.errors import TrainingError
from ssia_zoo.training.optimization import skips_by_itself
from ssia_zoo.training.run import Run

_MAX_SKIPPED_IN_A_ROW = 20


def optimizer_step(run: Run) -> None:
    """Clip the gradients and step; skip and count a step whose gradients or loss are not finite.

    torch's fused optimizers skip a step by themselves, so that the host does not wait for the device. Before any other
    optimizer's step, the host reads whether to take it. The same all-reduce tells all processes whether one of them
    received a stop signal.

    Raises:
        TrainingError: As `check_steps`.
    """
    norm = _clip(run)
    bad = run.health.end_step(norm, run.stop.received, run.state.step)
    if skips_by_itself(run.optimizer):
        _step_unless(bad, run.optimizer)
    else:
        _step_if_finite(run, norm, bad)
    run.optimizer.zero_grad()
    check_steps(run)


def check_steps(run: Run, *, wait: bool = False) -> None:
    """Count the skipped steps that the device has reported; with `wait`, those of all steps so far.

    Raises:
        TrainingError: If too many steps in a row were skipped, or BatchNorm's running statistics are not finite.
    """
    for reading in run.health.read(wait=wait):
        run.state.skipped, run.state.skipped_in_a_row = reading.skipped, reading.skipped_in_a_row
        if reading.skipped_in_a_row:
            _check_recoverable(run, reading.step)


def _step_unless(bad: Tensor, optimizer: Any) -> None:
    """Step by an optimizer that changes nothing if its `found_inf` is set, as a gradient scaler sets it."""

    def skip(inner: Any, *_: Any) -> None:
        overflow = getattr(inner, "found_inf", None)  # of the scaler, whose scale only its own overflows lower
        inner.found_inf = bad.float() if overflow is None else torch.maximum(overflow, bad.float())

    inner = optimizer.optimizer  # Accelerate's wraps torch's
    if isinstance(inner, torch.optim.SGD) and not inner.state:
        _start_momentum(inner)
    hook = inner.register_step_pre_hook(skip)
    try:
        optimizer.step()
    finally:
        hook.remove()
    inner.found_inf = None


def _start_momentum(optimizer: torch.optim.SGD) -> None:
    """Start the momentum at 0, which a first step that is skipped would leave unset."""
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["momentum"] else ():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def _step_if_finite(run: Run, norm: Tensor, bad: Tensor) -> None:
    """Wait for the device to know whether to step."""
    scaler = run.accelerator.scaler
    overflow = scaler is not None and not math.isfinite(norm)
    if overflow or not bad:  # the scaler skips a step that overflows itself, and lowers its scale
        run.optimizer.step()
    elif scaler is not None:
        scaler.update(scaler.get_scale())  # it sees only the gradients, which are finite: end its step untaken


def is_finite(module: torch.nn.Module) -> bool:
    """Return whether a module's buffers and (this process's shard of) parameters are free of NaN and infinity."""
    local = (t.to_local() if isinstance(t, DTensor) else t for t in module.state_dict().values())
    return all(bool(torch.isfinite(tensor).all()) for tensor in local)


def _clip(run: Run) -> Tensor:
    """Clip the gradients, if asked, and return their total norm before clipping.

    Student and heads are clipped separately, so that the student is clipped as it would be without heads. As in timm,
    AGC excludes the classifier.
    """
    value, mode, module = run.config.clip_grad, run.config.clip_mode, run.task.get_trainable_module()
    if value is None:
        return _norm(module.parameters())
    run.accelerator.unscale_gradients()
    of_student = {id(parameter) for parameter in unwrap_model(run.task.get_eval_model()).parameters()}
    clipped = list(run.task.get_clip_parameters(exclude_head=mode == "agc"))
    student = [parameter for parameter in clipped if id(parameter) in of_student]
    heads = [parameter for parameter in clipped if id(parameter) not in of_student]
    parts = [part for part in (student, heads) if part]
    if mode == "norm":
        norms = [_full(torch.nn.utils.clip_grad_norm_(part, value)) for part in parts]
        total: Tensor = torch.stack(norms).norm()
        return total
    norm = _norm(module.parameters())
    for part in parts:
        dispatch_clip_grad(part, value, mode=mode)
    return norm


def _norm(parameters: Iterable[torch.nn.Parameter]) -> Tensor:
    return _full(torch.nn.utils.get_total_norm(p.grad for p in parameters if p.grad is not None))


def _full(norm: Tensor) -> Tensor:
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def _check_recoverable(run: Run, step: int) -> None:
    """Stop a run that keeps skipping steps, or whose running statistics are no longer finite."""
    checkpoints = f"the last good checkpoint, if there is one, is in {run.folder.checkpoints}"
    state = run.state
    if state.skipped_in_a_row >= _MAX_SKIPPED_IN_A_ROW:
        raise TrainingError(
            f"loss or gradients were not finite in {state.skipped_in_a_row} steps in a row, up to step {step}; "
            f"lower `lr` or set `clip_grad`; {checkpoints}"
        )
    if not all(bool(torch.isfinite(buffer).all()) for buffer in run.task.get_trainable_module().buffers()):
        raise TrainingError(
            f"a batch at step {step} was not finite and made the model's running statistics not finite; look for "
            f"a bad image, or lower `lr`; {checkpoints}"
        )
