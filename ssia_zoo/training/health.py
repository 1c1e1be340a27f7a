"""Find steps that are not finite on the device, and report them to the host without waiting for the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ssia_zoo.training.checkpoint import TrainState

_DELAY = 2
"""Steps after which a GPU's counts are read: it has finished that step by then, with work left in its queue."""


class Reading(NamedTuple):
    """What the host learns of an optimizer step."""

    step: int
    """optimizer steps before this one"""
    stop_signal: int
    """the signal that stops all processes, or 0"""
    skipped: int
    """steps skipped so far"""
    skipped_in_a_row: int


class StepHealth:
    """Which optimizer steps are not finite: decided and counted on the device, read by the host some steps later.

    Readings arrive after the same number of steps in every process, so that all processes act on them in the same step.

    Args:
        state: The counts so far.
        device: Of the run.
        processes: Number of processes.
        delay: Steps after which a step is read; if None, 0 on a CPU, whose work is done by then, and 2 on a GPU.
    """

    def __init__(self, state: TrainState, device: torch.device, processes: int, delay: int | None = None) -> None:
        self.stop_signal = 0
        """the signal that stops all processes after this step, or 0"""
        self._device, self._processes = device, processes
        self._delay = delay if delay is not None else _DELAY if device.type == "cuda" else 0
        self._loss_lost = torch.zeros((), dtype=torch.bool, device=device)
        self._skipped = torch.full((), state.skipped, device=device)
        self._in_a_row = torch.full((), state.skipped_in_a_row, device=device)
        self._pending: deque[tuple[int, Tensor, torch.cuda.Event | None]] = deque()

    def add_loss(self, loss: Tensor) -> None:
        """Add the loss of a batch of this step."""
        self._loss_lost |= ~torch.isfinite(loss.detach())

    def end_step(self, norm: Tensor, signal: int, step: int) -> Tensor:
        """Return whether to skip this step, as a boolean on the device, the same in all processes.

        Args:
            norm: Total norm of the gradients, equal in all processes, as gradients are averaged; losses are not.
            signal: The stop signal that this process has received, or 0.
            step: Optimizer steps before this one.
        """
        facts = torch.stack([torch.full_like(self._skipped, signal), self._loss_lost.to(self._skipped.dtype)])
        if self._processes > 1:
            torch.distributed.all_reduce(facts, torch.distributed.ReduceOp.MAX)
        bad = ~torch.isfinite(norm) | facts[1].bool()
        self._loss_lost.zero_()
        self._skipped += bad
        self._in_a_row = (self._in_a_row + 1) * bad
        self._send(step, torch.stack([facts[0], self._skipped, self._in_a_row]))
        return bad

    def _send(self, step: int, values: Tensor) -> None:
        """Copy values to the host, in the order of the device's work."""
        event = None
        if values.device.type == "cuda":
            values = torch.empty_like(values, device="cpu", pin_memory=True).copy_(values, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch has no types here
            event.record()
        self._pending.append((step, values, event))

    def read(self, *, wait: bool = False) -> Iterator[Reading]:
        """Yield the steps that are due; with `wait`, all steps so far."""
        while len(self._pending) > (0 if wait else self._delay):
            step, values, event = self._pending.popleft()
            if event is not None:
                event.synchronize()
            reading = Reading(step, *values.tolist())
            self.stop_signal = self.stop_signal or reading.stop_signal
            yield reading
