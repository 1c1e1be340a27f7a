"""Run a command, print errors in one line, and return the exit status."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssia_zoo.errors import ConfigError, SSIAZooError, one_line, with_flags, without_credentials

DONE, FAILED, WRONG_USAGE, INTERRUPTED, READER_GONE, TERMINATED = 0, 1, 2, 130, 141, 143


class UsageError(ConfigError):
    """Arguments that cannot be combined; the exit status is 2, as for an unknown flag."""


class _Terminated(KeyboardInterrupt):
    """SIGTERM, raised as an exception so that unfinished files are removed as after Ctrl-C."""

    status = TERMINATED


def replace_closed_streams() -> None:
    """Replace stdout and stderr that were closed before the start, as `>&-` does, by streams that discard the text.

    Python sets them to None: flushing stdout would fail, and messages for stderr would be printed on stdout.
    """
    sys.stdout = sys.stdout or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  # until the exit
    sys.stderr = sys.stderr or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115


def run(command: Callable[[], int | None]) -> int:
    """Run a command; print an exception as one line on stderr and return the exit status.

    Args:
        command: Returns its exit status, None for success.

    Returns:
        The exit status, as listed in `ssia_zoo.cli.main`.

    Raises:
        SystemExit: If the command raises it.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for characters that the terminal cannot show
    try:
        try:
            with _sigterm_raises():
                return command() or DONE
        finally:
            sys.stdout.flush()  # here, so that a closed pipe raises inside this try
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes again at exit
        return READER_GONE
    except SSIAZooError as error:
        complain(f"error: {with_flags(str(error))}")
        return WRONG_USAGE if isinstance(error, UsageError) else FAILED
    except KeyboardInterrupt as stop:
        complain("stopped")
        return getattr(stop, "status", INTERRUPTED)  # a stopped training has its own status
    except Exception as error:
        if os.environ.get("SSIA_ZOO_DEBUG"):
            print(without_credentials(traceback.format_exc()), end="", file=sys.stderr)
        name, hint = type(error).__name__, "set SSIA_ZOO_DEBUG=1 for the traceback and please report it"
        complain(f"error: {one_line(error)}" if isinstance(error, OSError) else f"error: {name}: {error}; {hint}")
        return FAILED


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Let SIGTERM raise `_Terminated`, in the main thread only: Python handles signals there."""

    def stop(*_: object) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def complain(message: str) -> None:
    """Print one line on stderr, without credentials."""
    print(without_credentials(" ".join(message.split())), file=sys.stderr, flush=True)


def print_json(document: Any) -> None:
    """Print one JSON document on stdout; NaN and infinities become null."""
    print(json.dumps(_finite(document), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
