"""Checkpoints of a run: written whole or not at all, found again, and old ones deleted.

They hold Accelerate's state (weights with the training-only heads, optimizer, random states of every process) and this
run's own (schedule, moving average, position). They are pickles, trusted files of one's own: never load a stranger's.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ssia_zoo.errors import TrainingError

_PREFIX = "step_"
_UNFINISHED = ".unfinished_"
_MANIFEST = "manifest.json"


_log = logging.getLogger(__name__)


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


def save_checkpoint(accelerator: Accelerator, folder: Path, step: int, keep: int, experiment: dict[str, Any]) -> None:
    """Write a checkpoint beside its final place, then rename it; every process must call this.

    Args:
        accelerator: Holds everything that is saved.
        folder: The run's checkpoints.
        step: Optimizer steps done, the checkpoint's name.
        keep: Number of checkpoints to keep; older ones are deleted.
        experiment: Settings that a run which resumes here must share.
    """
    unfinished, finished = folder / f"{_UNFINISHED}{step}", folder / f"{_PREFIX}{step:08d}"
    if finished.exists():  # this step is saved already
        return
    if accelerator.is_main_process:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(unfinished))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        manifest = {"step": step, "processes": accelerator.num_processes, "experiment": experiment}
        (unfinished / _MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
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
    if not (path / _MANIFEST).is_file():
        raise TrainingError(
            f"--resume {resume}: is no checkpoint; expected a folder such as {folder}/step_00000100, or auto"
        )
    return path


def check_checkpoint(checkpoint: Path, experiment: dict[str, Any], processes: int) -> None:
    """Check that a checkpoint is of a run with the same settings, spread over as many processes.

    Raises:
        TrainingError: If not; names what differs.
    """
    try:
        manifest = json.loads((checkpoint / _MANIFEST).read_text(encoding="utf-8"))
        before, processes_before = manifest["experiment"], manifest["processes"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise TrainingError(f"{checkpoint} is damaged ({error}); delete it and resume from the one before") from error
    decisive = {name: now for name, now in experiment.items() if name != "workers"}  # which change nothing
    changed = [f"{name} ({before.get(name)} -> {now})" for name, now in decisive.items() if before.get(name) != now]
    if processes_before != processes:
        changed.append(f"processes ({processes_before} -> {processes})")
    if changed:
        raise TrainingError(f"--resume continues a run with its own settings; changed here: {', '.join(changed)}")


def load_checkpoint(accelerator: Accelerator, checkpoint: Path) -> None:
    """Load what `save_checkpoint` saved.

    Raises:
        TrainingError: If it is damaged.
    """
    try:
        accelerator.load_state(str(checkpoint))
    except Exception as error:  # every part has its own reader, with errors of its own
        reason = " ".join(str(error).split())[:200]
        raise TrainingError(
            f"{checkpoint} cannot be loaded ({type(error).__name__}: {reason}); delete it to resume from the one before"
        ) from error


def set_aside_later(folder: Path, step: int) -> None:
    """Rename checkpoints of later steps than the one that a run resumes from: they are of a branch that is left."""
    for path in list_checkpoints(folder):
        if int(path.name.removeprefix(_PREFIX)) > step:
            aside = path.with_name(f"abandoned_{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(path, aside)
            _log.info("%s is later than the checkpoint resumed from; renamed to %s", path.name, aside.name)
