"""Training: settings, the loop, checkpoints and what a run writes."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ssia_zoo.errors import SSIAZooError
from ssia_zoo.training.config import TrainConfig, parse_config
from ssia_zoo.training.loop import TrainResult, train

__all__ = ["TrainConfig", "TrainResult", "main", "parse_config", "train"]


def main(args: Sequence[str] | None = None) -> int:
    """Run train_hf.py's command line.

    Returns:
        Exit status: 0 done, 1 failed with a message, 130 stopped by the user.
    """
    try:
        train(parse_config(sys.argv[1:] if args is None else args))
    except SSIAZooError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # a full disk, a folder that went away
        reason = " ".join(str(error).split())
        print(f"error: {reason}; --resume auto continues from the last checkpoint, if there is one", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command with --resume auto continues from the last checkpoint", file=sys.stderr)
        return 130
    return 0
