"""Stop a run by a signal, at the end of an optimizer step and in all processes at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

import torch
from accelerate import Accelerator

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_REPEAT_SECONDS = 1.0
"""Launchers forward a Ctrl-C that the terminal has sent already; only a later one is a second Ctrl-C of the user."""


class TrainingStopped(KeyboardInterrupt):
    """Raised when a signal stops the run; like KeyboardInterrupt, not an `Exception`.

    Args:
        number: The signal.
        message: One line: which signal, after which step, and how to continue.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number

    @property
    def status(self) -> int:
        """Exit status, as in shells: 143 for SIGTERM, 130 for SIGINT (Ctrl-C), 138 for SIGUSR1."""
        return 128 + self.number


class StopSignals:
    """Context manager: SIGTERM, SIGINT and SIGUSR1 raise `TrainingStopped`, or set `received` while `deferred`.

    A second SIGINT raises even while `deferred`. The previous handlers are restored on exit. Only the main thread can
    handle signals; in another thread this does nothing.
    """

    def __init__(self) -> None:
        self.deferred = False
        self.received = 0
        """the first deferred signal, or 0"""
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        repeated = number == self.received == signal.SIGINT and now - self._since > _REPEAT_SECONDS
        if not self.deferred or repeated:
            self.deferred = False
            raise TrainingStopped(
                number,
                f"stopped by {signal.Signals(number).name}; the same command with --resume auto continues from the "
                "last checkpoint, if there is one",
            )
        if not self.received:
            self.received, self._since = number, now
            if number == signal.SIGINT:  # not print, which the handler may have interrupted
                os.write(2, b"\nstopping after this step; press Ctrl-C again to stop at once\n")


def all_reduce_max(accelerator: Accelerator, *values: int) -> list[int]:
    """Return the maximum of each value over all processes, by one all-reduce; every process must call this."""
    if accelerator.num_processes == 1:
        return list(values)
    tensor = torch.tensor(values, device=accelerator.device)
    torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX)
    maxima: list[int] = tensor.tolist()
    return maxima
