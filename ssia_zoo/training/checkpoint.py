"""Checkpoints of a run: written whole or not at all, checked when they are found again, and old ones deleted.

They hold Accelerate's state (weights with the training-only heads, optimizer, random states of every process) and this
run's own (schedule, moving average, position). Accelerate unpickles the latter without weights_only: never load a
stranger's.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from torch import Tensor

from ssia_zoo.errors import TrainingError, one_line
from ssia_zoo.training.config import with_defaults
from ssia_zoo.training.faults import is_dead_worker, is_lost_process
from ssia_zoo.training.resuming import PREPROCESSING

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
        """optimizer steps skipped for a loss or gradient that was not finite"""
        self.skipped_in_a_row = 0
        self.epoch_ended = False
        """whether an epoch has just ended, and what follows (evaluation, publishing) is still to be done"""
        self.sums: dict[str, Tensor] = {}
        """losses of the batches since the last record of them"""
        self.counted = 0
        """number of those batches"""

    def state_dict(self) -> dict[str, Any]:
        """What is saved."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what was saved."""
        vars(self).update(state)


def save_checkpoint(accelerator: Accelerator, folder: Path, step: int, keep: int, facts: dict[str, Any]) -> None:
    """Write a checkpoint beside its final place, then rename it; every process must call this.

    All of it is on the disk before the rename, and older checkpoints are deleted after that.

    Args:
        accelerator: Holds everything that is saved.
        folder: The run's checkpoints.
        step: Optimizer steps done, the checkpoint's name.
        keep: Number of checkpoints to keep; older ones are deleted.
        facts: Goes into the manifest, JSON-ready: "experiment", the settings that a run which resumes here must share;
            "environment", what may change its last bits; "records", lines of metrics so far.

    Raises:
        RuntimeError: If a process that loads images, or another one of the run, ended meanwhile.
        TrainingError: If it cannot be written; what was written of it is deleted, and the others are left alone.
    """
    unfinished, finished = folder / f"{_UNFINISHED}{step}", folder / f"{_PREFIX}{step:08d}"
    saved = [finished.exists() if accelerator.is_main_process else None]
    broadcast_object_list(saved)  # a network's file system may answer each process differently
    if saved[0]:
        return
    try:
        with _writing(folder, step):
            if accelerator.is_main_process:
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir(parents=True)
        accelerator.wait_for_everyone()
        with _writing(folder, step):
            accelerator.save_state(str(unfinished))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            with _writing(folder, step):
                _write_manifest(unfinished, {"step": step, "processes": accelerator.num_processes, **facts})
                os.replace(unfinished, finished)
                _flush(folder)
            for old in list_checkpoints(folder)[:-keep]:
                _delete(old)
    finally:
        if accelerator.is_main_process:
            shutil.rmtree(unfinished, ignore_errors=True)
    accelerator.wait_for_everyone()


@contextmanager
def _writing(folder: Path, step: int) -> Iterator[None]:
    """Tell in one line that a checkpoint cannot be written."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # torch tells a full disk as a RuntimeError
        if is_dead_worker(error) or is_lost_process(error):  # not of what was being written
            raise
        free = f"{shutil.disk_usage(folder).free / 1e6:.0f} MB" if folder.exists() else "nothing"
        raise TrainingError(
            f"the checkpoint of step {step} cannot be written: {one_line(error)[:200]}; {free} is free at {folder}: "
            "make room, then --resume auto continues from the one before, if there is one"
        ) from error


def _write_manifest(checkpoint: Path, facts: dict[str, Any]) -> None:
    """State every file's size and SHA-256, and see that all of it is on the disk."""
    paths = [checkpoint, *sorted(checkpoint.rglob("*"))]
    facts["files"] = {
        path.relative_to(checkpoint).as_posix(): {"size": path.stat().st_size, "sha256": _sha256(path)}
        for path in paths
        if path.is_file()
    }
    manifest = checkpoint / _MANIFEST
    manifest.write_text(json.dumps({**facts, "sha256": _digest(facts)}, indent=2), encoding="utf-8")
    for path in (*paths, manifest):
        _flush(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _flush(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _delete(checkpoint: Path) -> None:
    """Delete a checkpoint so that a kill in between leaves none that looks whole."""
    doomed = checkpoint.with_name(f"{_UNFINISHED}{checkpoint.name}")
    os.replace(checkpoint, doomed)
    shutil.rmtree(doomed)


def clean_up(folder: Path) -> None:
    """Delete what a killed run left half-written or half-deleted."""
    for path in folder.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(path, ignore_errors=True)


def list_checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints of a run, oldest first."""
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if path.is_dir())


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """Read what a checkpoint says of itself, and check each of its files against it.

    Raises:
        TrainingError: If it is damaged; says how.
    """
    try:
        facts: dict[str, Any] = json.loads((checkpoint / _MANIFEST).read_text(encoding="utf-8"))
        if facts.pop("sha256") != _digest(facts):
            raise ValueError("its content was changed")
        files: dict[str, dict[str, Any]] = facts["files"]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be used ({one_line(error)})"
        raise TrainingError(f"{checkpoint} is damaged: {_MANIFEST} {reason}") from error
    for name, stated in files.items():
        path = checkpoint / name
        try:
            size = path.stat().st_size
            if size != stated["size"]:
                raise TrainingError(f"{checkpoint} is damaged: {name} has {size} bytes instead of {stated['size']}")
            if _sha256(path) != stated["sha256"]:
                raise TrainingError(f"{checkpoint} is damaged: the bytes of {name} have changed since it was written")
        except OSError as error:
            raise TrainingError(f"{checkpoint} is damaged: {name} cannot be read ({error.strerror})") from error
    return facts


def find_checkpoint(resume: str, folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Find what `--resume` means, and read its manifest.

    Args:
        resume: "auto" for the newest sound checkpoint of the run, if it has one, or the path of a checkpoint.
        folder: The run's checkpoints.

    Raises:
        TrainingError: If a path is given that is no sound checkpoint, or all the run's are damaged.
    """
    if resume != "auto":
        path = Path(resume)
        if not path.is_dir() or not (path.name.startswith(_PREFIX) or (path / _MANIFEST).exists()):
            raise TrainingError(
                f"--resume {resume}: is no checkpoint; expected a folder such as {folder}/step_00000100, or auto"
            )
        return path, read_manifest(path)
    damages = []
    for path in reversed(list_checkpoints(folder)):
        try:
            manifest = read_manifest(path)
        except TrainingError as error:
            damages.append(str(error))
            continue
        for damage in damages:
            _log.warning("%s; %s, the one before, is taken", damage, path.name)
        return path, manifest
    if damages:
        raise TrainingError(
            f"--resume auto: no checkpoint can be used ({'; '.join(damages)}); nothing was deleted: put them "
            "back from a copy, or start again in a new --output-dir"
        )
    return None


def check_checkpoint(
    manifest: dict[str, Any], experiment: dict[str, Any], processes: int, environment: dict[str, str]
) -> None:
    """Check that a checkpoint is of a run with the same settings, spread over as many processes.

    Settings that an older version did not know count as their defaults. The number of epochs may have been raised.
    What may change the last bits of the result (versions, threads) is told as a warning.

    Raises:
        TrainingError: If not; names what differs.
    """
    before, processes_before = with_defaults(manifest["experiment"]), manifest["processes"]
    # These change nothing; to raise max_corrupt is what a stopped run is told to do.
    free = ["workers", "max_corrupt", "check_duplicates"]
    # What is the model's own where it is not given is compared once the model is there.
    free += [name for name in PREPROCESSING if None in (experiment.get(name), before.get(name))]
    if experiment["epochs"] > before["epochs"]:
        free.append("epochs")
        _log.info(
            "--epochs raised from %d to %d: from step %d on, learning rate and lambda follow the schedule of %d epochs",
            *(before["epochs"], experiment["epochs"], manifest["step"], experiment["epochs"]),
        )
    decisive = {name: now for name, now in experiment.items() if name not in free}
    changed = [f"{name} ({before.get(name)} -> {now})" for name, now in decisive.items() if before.get(name) != now]
    if processes_before != processes:
        changed.append(f"processes ({processes_before} -> {processes})")
    if changed:
        differences = ", ".join(changed)
        raise TrainingError(
            f"--resume continues a run with its own settings, but for a higher --epochs; changed here: {differences}"
        )
    then = manifest["environment"]
    moved = [f"{name} ({then.get(name)} -> {now})" for name, now in environment.items() if then.get(name) != now]
    if moved:
        _log.warning("the result may differ in its last bits from an uninterrupted run's: %s", ", ".join(moved))


def load_checkpoint(accelerator: Accelerator, checkpoint: Path) -> None:
    """Load what `save_checkpoint` saved.

    Raises:
        TrainingError: If it does not fit this run.
    """
    try:
        accelerator.load_state(str(checkpoint))
    except Exception as error:  # every part has its own reader, with errors of its own
        raise TrainingError(
            f"{checkpoint} cannot be loaded ({type(error).__name__}: {one_line(error)[:200]}); "
            "give an earlier one by its path, --resume PATH"
        ) from error


def set_aside_later(folder: Path, step: int) -> None:
    """Rename checkpoints of later steps than the one that a run resumes from: they are damaged, or of a branch left."""
    for path in list_checkpoints(folder):
        if int(path.name.removeprefix(_PREFIX)) > step:
            aside = path.with_name(f"abandoned_{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(path, aside)
            _log.info("%s is later than the checkpoint resumed from; renamed to %s", path.name, aside.name)
