"""Stopping a run from outside: signals wait for the end of an optimizer step, at which all processes agree to stop."""

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
_SECOND_THOUGHTS = 1.0
"""Seconds. Launchers pass a Ctrl-C on that the terminal has already sent; only a later one is the user's impatience."""


class TrainingStopped(KeyboardInterrupt):
    """A signal stopped the run; no error, and not caught as one.

    Args:
        number: The signal.
        message: One line: what stopped the run, where it stands, how to go on.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number

    @property
    def status(self) -> int:
        """Exit status as shells give it: 143 for SIGTERM, 130 for SIGINT (Ctrl-C), 138 for SIGUSR1."""
        return 128 + self.number


class StopSignals:
    """SIGTERM, SIGINT and SIGUSR1 raise `TrainingStopped` at once, or are kept for the loop while `deferred`.

    While they are kept, a second SIGINT ends the run at once all the same. Handlers are put back at the end. Python
    leaves signals to the main thread; in another one this does nothing.
    """

    def __init__(self) -> None:
        self.deferred = False
        self.received = 0
        """the first signal kept, or 0"""
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
        impatient = number == self.received == signal.SIGINT and now - self._since > _SECOND_THOUGHTS
        if not self.deferred or impatient:
            self.deferred = False
            raise TrainingStopped(
                number,
                f"stopped by {signal.Signals(number).name}; the same command with --resume auto continues from the "
                "last checkpoint, if there is one",
            )
        if not self.received:
            self.received, self._since = number, now
            if number == signal.SIGINT:  # os.write, as a handler may have interrupted a print
                os.write(2, b"\nstopping after this step; Ctrl-C once more stops at once\n")


def agree(accelerator: Accelerator, *values: int) -> list[int]:
    """The largest of each value over all processes, so that what only one of them knows is acted on by all.

    It costs one small all-reduce, and nothing in a single process. Every process must call this.
    """
    if accelerator.num_processes == 1:
        return list(values)
    tensor = torch.tensor(values, device=accelerator.device)
    torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX)
    agreed: list[int] = tensor.tolist()
    return agreed
