"""Checkpoints of a run: written whole or not at all, found again, and old ones deleted.

They hold Accelerate's state (weights with the training-only heads, optimizer, random states of every process) and this
run's own (schedule, moving average, position). They are pickles, trusted files of one's own: never load a stranger's.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from accelerate import Accelerator

from ssia_zoo.errors import TrainingError

_PREFIX = "step_"
_UNFINISHED = ".unfinished_"


class Position:
    """Where a run stands; Accelerate saves and loads it with the checkpoint."""

    def __init__(self) -> None:
        self.epoch = 0
        self.batches = 0
        """batches of this epoch that are done"""
        self.step = 0
        """optimizer steps done"""
        self.skipped = 0
        """optimizer steps skipped for a gradient that was not finite"""

    def state_dict(self) -> dict[str, int]:
        """What is saved."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take what was saved."""
        vars(self).update(state)


def save_checkpoint(accelerator: Accelerator, folder: Path, step: int, keep: int) -> None:
    """Write a checkpoint beside its final place, then rename it; every process must call this.

    Args:
        accelerator: Holds everything that is saved.
        folder: The run's checkpoints.
        step: Optimizer steps done, the checkpoint's name.
        keep: Number of checkpoints to keep; older ones are deleted.
    """
    unfinished, finished = folder / f"{_UNFINISHED}{step}", folder / f"{_PREFIX}{step:08d}"
    if accelerator.is_main_process:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(unfinished))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        if finished.exists():
            shutil.rmtree(finished)
        os.replace(unfinished, finished)
        for old in list_checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def list_checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints of a run, oldest first."""
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if path.is_dir())


def find_checkpoint(resume: str, folder: Path) -> Path | None:
    """Find what `--resume` means.

    Args:
        resume: "auto" for the newest checkpoint of the run, if it has one, or the path of a checkpoint.
        folder: The run's checkpoints.

    Raises:
        TrainingError: If a path is given that is no checkpoint.
    """
    if resume == "auto":
        return next(reversed(list_checkpoints(folder)), None)
    path = Path(resume)
    if not path.is_dir() or not any(path.glob("random_states_*.pkl")):
        raise TrainingError(
            f"--resume {resume}: is no checkpoint; expected a folder such as {folder}/step_00000100, or auto"
        )
    return path
