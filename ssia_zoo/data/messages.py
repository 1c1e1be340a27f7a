"""What a process is in its run, and processes that load images when the run is asked to stop."""

from __future__ import annotations

import os
import signal

_GRACE = 60
"""Seconds that a loading process goes on after SIGTERM."""


def outlive_stop_signals(worker: int) -> None:
    """Let a loading process live on when a signal goes to the whole process group or job.

    Else the main process could not finish its step. It ends its loading processes itself; should it fail to, they end
    a while after SIGTERM.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(_GRACE))


def is_main_process() -> bool:
    """Tell whether this process is the first of a run; of a run of one process, it is."""
    return os.environ.get("RANK", "0") == "0"
