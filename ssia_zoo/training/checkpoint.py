"""Write, find and verify checkpoints: folders of safetensors and JSON with a manifest."""

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

from safetensors import SafetensorError
from torch import Tensor

from ssia_zoo.errors import TrainingError, one_line
from ssia_zoo.training.snapshot import Snapshot

_PREFIX = "step_"
_UNFINISHED = ".unfinished_"
_MANIFEST = "manifest.json"
FORMAT = 2
"""Of the files: 2 is safetensors and JSON; earlier checkpoints, without a format, held pickles."""

_log = logging.getLogger(__name__)


class TrainState:
    """Progress of a run; a part of each checkpoint."""

    def __init__(self) -> None:
        self.epoch = 0
        self.images = 0
        """images of this epoch done, of all processes; the first ones of the epoch's order"""
        self.step = 0
        """optimizer steps done"""
        self.shift = 0
        """added to `step`, the position in the schedule; not 0 after the global batch has changed"""
        self.skipped = 0
        """optimizer steps skipped because the loss or a gradient was not finite"""
        self.skipped_in_a_row = 0
        self.epoch_ended = False
        """whether an epoch has ended and its evaluation and publishing are still to be done"""
        self.sums: dict[str, Tensor] = {}
        """sums of losses and top-1 since the last record"""
        self.counted = 0
        """number of batches in `sums`"""

    def state_dict(self) -> dict[str, Any]:
        """Return what is saved."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        vars(self).update(state)


def write_checkpoint(snapshot: Snapshot, folder: Path, step: int, keep: int, facts: dict[str, Any]) -> None:
    """Write a checkpoint under a temporary name, then rename it.

    All of it is on disk before it is renamed. Older checkpoints are deleted after that.

    Args:
        snapshot: What it holds.
        folder: The run's checkpoints.
        step: Optimizer steps done; becomes the checkpoint's name.
        keep: Number of checkpoints to keep.
        facts: Added to the manifest (JSON types): "experiment", the settings a resumed run must share; "environment",
            what may change its last bits; "processes"; "data"; "records", number of metrics lines so far.

    Raises:
        TrainingError: If the checkpoint cannot be written; the incomplete one is deleted, the others are kept.
    """
    unfinished = folder / f"{_UNFINISHED}{step}"
    try:
        with _translate_write_errors(folder, step):
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            snapshot.write(unfinished)
            _write_manifest(unfinished, {"format": FORMAT, "step": step, **facts})
            os.replace(unfinished, checkpoint_path(folder, step))
            _flush(folder)
        for old in list_checkpoints(folder)[:-keep]:
            _delete(old)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return the path of the complete checkpoint of a step."""
    return folder / f"{_PREFIX}{step:08d}"


@contextmanager
def _translate_write_errors(folder: Path, step: int) -> Iterator[None]:
    """Turn the errors of a full disk and the like into a `TrainingError`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        free = f"{shutil.disk_usage(folder).free / 1e6:.0f} MB" if folder.exists() else "nothing"
        raise TrainingError(
            f"the checkpoint of step {step} cannot be written: {one_line(error, 200)}; {free} is free at {folder}: "
            "free some space, then --resume auto continues from the checkpoint before, if there is one"
        ) from error


def _write_manifest(checkpoint: Path, facts: dict[str, Any]) -> None:
    """Write the facts and every file's size and SHA-256, and flush all files to disk."""
    paths = [checkpoint, *sorted(checkpoint.rglob("*"))]
    facts["files"] = {
        path.relative_to(checkpoint).as_posix(): {"size": path.stat().st_size, "sha256": _sha256(path)}
        for path in paths
        if path.is_file()
    }
    manifest = checkpoint / _MANIFEST
    manifest.write_text(json.dumps(facts, indent=2), encoding="utf-8")
    for path in (*paths, manifest):
        _flush(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Wait until a file, or a folder's directory entries, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _delete(checkpoint: Path) -> None:
    """Rename, then delete: a kill in between leaves no incomplete folder that looks like a checkpoint."""
    doomed = checkpoint.with_name(f"{_UNFINISHED}{checkpoint.name}")
    os.replace(checkpoint, doomed)
    shutil.rmtree(doomed)


def clean_up(folder: Path) -> None:
    """Delete checkpoints that a killed run left incomplete."""
    for path in folder.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(path, ignore_errors=True)


def list_checkpoints(folder: Path) -> list[Path]:
    """List the complete checkpoints of a run, oldest first, without copies that a user made under other names."""
    found = (path for path in folder.glob(f"{_PREFIX}*") if path.name.removeprefix(_PREFIX).isdecimal())
    return sorted((path for path in found if path.is_dir()), key=lambda path: int(path.name.removeprefix(_PREFIX)))


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """Read a checkpoint's manifest and verify every file against it.

    Raises:
        TrainingError: If the checkpoint is damaged; names the damage.
    """
    try:
        facts: dict[str, Any] = json.loads((checkpoint / _MANIFEST).read_text(encoding="utf-8"))
        files: dict[str, dict[str, Any]] = facts["files"]
    except (OSError, ValueError, TypeError, KeyError) as error:
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
    if facts.get("format") != FORMAT:
        raise TrainingError(
            f"{checkpoint} is of another version of this package: format {facts.get('format', 1)}, expected {FORMAT} "
            "(safetensors and JSON instead of pickles); finish that run with the version that began it"
        )
    return facts


def find_checkpoint(resume: str, folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Find the checkpoint that `resume` names and read its manifest.

    Args:
        resume: "auto" for the run's newest undamaged checkpoint, if it has any, or the path of a checkpoint.
        folder: The run's checkpoints.

    Raises:
        TrainingError: If the path is not an undamaged checkpoint, or all of the run's are damaged.
    """
    if resume != "auto":
        path = Path(resume)
        if not path.is_dir() or not (path.name.startswith(_PREFIX) or (path / _MANIFEST).exists()):
            raise TrainingError(
                f"`resume` {resume} is not a checkpoint; expected a folder such as {folder}/step_00000100, or auto"
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
            _log.warning("%s; using the one before it, %s", damage, path.name)
        return path, manifest
    if damages:
        raise TrainingError(
            f"`resume` auto: no checkpoint can be used ({'; '.join(damages)}); nothing was deleted: restore them "
            "from a copy, or start again in a new `output_dir`"
        )
    return None


def set_aside_later(folder: Path, step: int) -> None:
    """Rename checkpoints later than the one resumed from: they are damaged, or belong to an abandoned branch."""
    for path in list_checkpoints(folder):
        if int(path.name.removeprefix(_PREFIX)) > step:
            aside = path.with_name(f"abandoned_{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(path, aside)
            _log.info("%s is later than the checkpoint resumed from; renamed to %s", path.name, aside.name)
