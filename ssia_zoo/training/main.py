"""Command line of train_hf.py and `python -m ssia_zoo.training`."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Callable, Sequence

from ssia_zoo.errors import ConfigError, SSIAZooError, one_line, with_flags
from ssia_zoo.log import show_log
from ssia_zoo.training.arguments import parse_config
from ssia_zoo.training.finetune import finetune, parse_finetune
from ssia_zoo.training.loop import train
from ssia_zoo.training.signals import TrainingStopped


def main(args: Sequence[str] | None = None, prog: str = "train_hf.py") -> int:
    """Train as the command line says.

    Args:
        args: Arguments; those of the process if None.
        prog: Name of the command in `--help`.

    Returns:
        Exit status: 0 after success, 1 after an error, 128 + n if stopped by signal n. An unknown flag exits with 2.
    """
    return run_training(lambda: train(parse_config(sys.argv[1:] if args is None else args, prog)))


def main_finetune(args: Sequence[str], prog: str = "ssia-zoo finetune") -> int:
    """Fine-tune as the command line says; return the exit status, as `main`."""
    return run_training(lambda: finetune(*parse_finetune(args, prog)))


def run_training(action: Callable[[], object]) -> int:
    """Show the log, run an action, print its error in one line, and return the exit status."""
    show_log(logging.INFO if _is_main_process() else logging.WARNING)
    try:
        action()
        gc.collect()  # ends the loading processes that reference cycles keep, before the exit terminates them
    except SSIAZooError as error:
        # All processes find the same error in the settings, so one prints it; other errors may be one process's own.
        if _is_main_process() or not isinstance(error, ConfigError):
            print(f"error: {with_flags(str(error))}", file=sys.stderr)
        return 1
    except TrainingStopped as stop:
        if _is_main_process():
            print(stop, file=sys.stderr)
        return stop.status
    except BrokenPipeError:  # `--help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end
        return 141
    except OSError as error:  # for example, the folder has been removed
        print(
            f"error: {one_line(error)}; --resume auto continues from the last checkpoint, if there is one",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command with --resume auto continues from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def _is_main_process() -> bool:
    return os.environ.get("RANK", "0") == "0"
