"""Save checkpoints without stopping the training: copy the run's state, then write it in a background thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

from ssia_zoo.training.checkpoint import checkpoint_path, write_checkpoint
from ssia_zoo.training.snapshot import Checkpointed

_log = logging.getLogger(__name__)


class CheckpointSaver:
    """Saves checkpoints of one run, one at a time; only the main process writes.

    A kill while one is written leaves the ones before: it gets its name when all of it is on disk.

    Args:
        folder: The run's checkpoints.
        keep: Number of checkpoints to keep.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self.blocked = 0.0
        """seconds for which saving has stopped the training since they were last recorded"""

    def save(self, checkpointed: Checkpointed, step: int, facts: dict[str, Any]) -> None:
        """Copy the state and begin to write it, unless there is a checkpoint of this step.

        Every process must call this. It waits for the checkpoint before, if that is still being written.

        Args:
            checkpointed: What to save.
            step: Optimizer steps done.
            facts: For the manifest, as for `write_checkpoint`.

        Raises:
            TrainingError: If the checkpoint before could not be written; those before that are kept.
        """
        accelerator = checkpointed.accelerator
        self.wait()
        saved = [checkpoint_path(self.folder, step).exists() if accelerator.is_main_process else None]
        broadcast_object_list(saved)  # a network file system may answer each process differently
        if not saved[0] and (snapshot := checkpointed.snapshot()) is not None:
            facts = {"processes": accelerator.num_processes, **facts}
            self._start(partial(write_checkpoint, snapshot, self.folder, step, self.keep, facts))

    def check(self) -> None:
        """Raise the error of a checkpoint that could not be written, if there is one; do not wait."""
        if self._thread is None or not self._thread.is_alive():
            self.wait()

    def wait(self) -> None:
        """Wait until the checkpoint is on disk.

        Raises:
            TrainingError: If it could not be written; the ones before are kept.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if (error := self._error) is not None:
            self._error = None
            raise error

    def close(self) -> None:
        """Wait until the checkpoint is on disk, and log an error instead of raising it."""
        try:
            self.wait()
        except Exception as error:  # the run ends for another reason
            _log.error("%s", error)

    def _start(self, write: Callable[[], None]) -> None:
        def run() -> None:
            try:
                write()
            except BaseException as error:  # raised in the main thread
                self._error = error

        self._thread = threading.Thread(target=run, name="checkpoint", daemon=True)
        self._thread.start()
