"""How every command ends: its exit status, one line for an error, one JSON document for `--json`."""

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
from typing import Any

from ssia_zoo.errors import ConfigError, SSIAZooError, with_flags, without_credentials

DONE, FAILED, WRONG_USAGE, INTERRUPTED, READER_GONE, TERMINATED = 0, 1, 2, 130, 141, 143

DESCRIPTION = """timm models trained with Self-Supervised Implicit Attention.

Start with:
  ssia-zoo list                           what is published
  ssia-zoo predict cat.jpg --model NAME   what an image shows
  ssia-zoo demo                           the whole path, in two minutes
  ssia-zoo COMMAND --help                 flags and examples of a command

A model is a published weight's name, any timm name, a folder that holds
  config.json and model.safetensors, or hf-hub:org/name.

Exit status:
  0    done
  1    failed, or some of it could not be done: a line on stderr says what
  2    wrong command line
  130  stopped by the user (Ctrl-C)
  141  the reader of the output has gone, as `| head` does
  143  stopped by SIGTERM"""


class UsageError(ConfigError):
    """Flags or arguments that do not go together; ends with status 2, as a flag that does not exist does."""


class _Terminated(KeyboardInterrupt):
    """SIGTERM has come: what is unfinished is tidied away, as after Ctrl-C."""

    status = TERMINATED


def run(command: Callable[[], int | None]) -> int:
    """Run a command and turn what it raises into an exit status and at most one line on stderr.

    Args:
        command: Returns its exit status, None for success.

    Returns:
        The exit status; see `ssia_zoo.cli` for their meanings.

    Raises:
        SystemExit: If the command raises it, after what was printed has left.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may hold what the terminal cannot show
    try:
        try:
            with _sigterm_raises():
                return command() or DONE
        finally:
            sys.stdout.flush()  # here, or a reader that has gone would show at the interpreter's end
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more
        return READER_GONE
    except SSIAZooError as error:
        complain(f"error: {with_flags(str(error))}")
        return WRONG_USAGE if isinstance(error, UsageError) else FAILED
    except KeyboardInterrupt as stop:
        complain("stopped")
        return getattr(stop, "status", INTERRUPTED)  # training says which signal it was, too
    except Exception as error:
        if os.environ.get("SSIA_ZOO_DEBUG"):
            print(without_credentials(traceback.format_exc()), end="", file=sys.stderr)
        name, hint = type(error).__name__, "SSIA_ZOO_DEBUG=1 shows where; please report it"
        complain(f"error: {error or name}" if isinstance(error, OSError) else f"error: {name}: {error}; {hint}")
        return FAILED


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Let SIGTERM raise `_Terminated`; Python leaves signals to the main thread, in another one this does nothing."""

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
    """Print one line on stderr, without the credentials of an address."""
    print(without_credentials(" ".join(message.split())), file=sys.stderr, flush=True)


def only_described(command: Callable[..., object]) -> Callable[[], None]:
    """A stand-in for a command in the list of commands: the first line of its help, and no flags."""

    def nothing() -> None: ...

    nothing.__doc__ = (command.__doc__ or "").partition("\n")[0]
    return nothing


def print_json(document: Any) -> None:
    """Print one JSON document on stdout; numbers that JSON lacks (NaN, infinities) become null."""
    print(json.dumps(_finite(document), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
