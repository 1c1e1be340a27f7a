"""Take an optimizer step: clip the gradients, apply them if they are finite, skip and count the step if not."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from timm.utils import dispatch_clip_grad, unwrap_model
from torch import Tensor
from torch.distributed.tensor import DTensor

from ssia_zoo.errors import TrainingError
from ssia_zoo.training.run import Run
from ssia_zoo.training.signals import all_reduce_max

_MAX_SKIPPED_IN_A_ROW = 20


def optimizer_step(run: Run) -> None:
    """Clip the gradients and step; skip the step and count it if the gradients or the loss are not finite.

    The same all-reduce tells all processes whether one of them received a stop signal.

    Raises:
        TrainingError: If too many steps in a row are skipped, or BatchNorm's running statistics are not finite.
    """
    norm = _clip(run)  # equal in every process, as gradients are averaged by now; losses are not
    run.stop_signal, loss_lost = all_reduce_max(run.accelerator, run.stop.received, int(run.loss_lost))
    run.loss_lost.zero_()
    finite = math.isfinite(norm) and not loss_lost
    scaler = run.accelerator.scaler
    overflow = scaler is not None and not math.isfinite(norm)
    if finite or overflow:  # the scaler skips a step that overflows itself, and lowers its scale
        run.optimizer.step()
    elif scaler is not None:
        scaler.update(scaler.get_scale())  # it sees only the gradients, which are finite: end its step untaken
    run.optimizer.zero_grad()
    run.state.skipped_in_a_row = 0 if finite else run.state.skipped_in_a_row + 1
    run.state.skipped += not finite
    if not finite:
        _check_recoverable(run)


def is_finite(module: torch.nn.Module) -> bool:
    """Return whether a module's buffers and (this process's shard of) parameters are free of NaN and infinity."""
    local = (t.to_local() if isinstance(t, DTensor) else t for t in module.state_dict().values())
    return all(bool(torch.isfinite(tensor).all()) for tensor in local)


def _clip(run: Run) -> float:
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
        return float(torch.stack(norms).norm())
    norm = _norm(module.parameters())
    for part in parts:
        dispatch_clip_grad(part, value, mode=mode)
    return norm


def _norm(parameters: Iterable[torch.nn.Parameter]) -> float:
    return float(_full(torch.nn.utils.get_total_norm(p.grad for p in parameters if p.grad is not None)))


def _full(norm: Tensor) -> Tensor:
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def _check_recoverable(run: Run) -> None:
    """Stop a run that keeps skipping steps, or whose running statistics are no longer finite."""
    checkpoints = f"the last good checkpoint, if there is one, is in {run.folder.checkpoints}"
    state = run.state
    if state.skipped_in_a_row >= _MAX_SKIPPED_IN_A_ROW:
        raise TrainingError(
            f"loss or gradients were not finite in {state.skipped_in_a_row} steps in a row, up to step {state.step}; "
            f"lower `lr` or set `clip_grad`; {checkpoints}"
        )
    if not all(bool(torch.isfinite(buffer).all()) for buffer in run.task.get_trainable_module().buffers()):
        raise TrainingError(
            f"a batch at step {state.step} was not finite and made the model's running statistics not finite; look for "
            f"a bad image, or lower `lr`; {checkpoints}"
        )
