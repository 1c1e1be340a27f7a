"""The command line of train_hf.py."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from ssia_zoo.errors import ConfigError, SSIAZooError, with_flags, without_credentials
from ssia_zoo.log import show_log
from ssia_zoo.training.arguments import parse_config
from ssia_zoo.training.loop import train
from ssia_zoo.training.signals import TrainingStopped


def main(args: Sequence[str] | None = None) -> int:
    """Run train_hf.py's command line.

    Returns:
        Exit status: 0 done, 1 failed with a message, 2 a flag that does not exist, 128 + n stopped by signal n.
    """
    show_log(logging.INFO if _is_main_process() else logging.WARNING)
    try:
        train(parse_config(sys.argv[1:] if args is None else args))
    except SSIAZooError as error:
        # Every process finds the same fault in the settings; what is a process's own, it tells itself.
        if _is_main_process() or not isinstance(error, ConfigError):
            print(f"error: {with_flags(str(error))}", file=sys.stderr)
        return 1
    except TrainingStopped as stop:
        if _is_main_process():
            print(stop, file=sys.stderr)
        return stop.status
    except OSError as error:  # a full disk, a folder that went away
        reason = without_credentials(" ".join(str(error).split()))
        print(f"error: {reason}; --resume auto continues from the last checkpoint, if there is one", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command with --resume auto continues from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def _is_main_process() -> bool:
    return os.environ.get("RANK", "0") == "0"
