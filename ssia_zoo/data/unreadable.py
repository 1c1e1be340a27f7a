"""Collect the images that cannot be decoded from all workers and processes, and stop the run at a limit."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import weakref
from math import floor
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object

from ssia_zoo.errors import DataError, without_credentials

_log = logging.getLogger(__name__)


class UnreadableImages:
    """The images of one split that could not be decoded so far.

    Lock-free: each worker appends a line an image to a temporary file that its process reads.

    Args:
        split: Name of the images, for messages: "the training images".
        images: Their number.
        max_fraction: Fraction that may be unreadable; 0 stops at the first.
    """

    def __init__(self, split: str, images: int, max_fraction: float) -> None:
        self.split = split
        self.images = images
        self.max_fraction = max_fraction
        self._reasons: dict[str, str] = {}
        self._found: dict[int, set[str | int]] = {}  # of each epoch of a stream; else all in one
        self._read = 0
        file, self._path = tempfile.mkstemp(prefix="ssia_zoo_unreadable_", suffix=".jsonl")
        os.close(file)
        weakref.finalize(self, _remove, self._path, os.getpid())

    def __len__(self) -> int:
        """Return the number of images, of all processes at the last `collect`; of a stream, the most in an epoch."""
        return max(map(len, self._found.values()), default=0)

    def add(self, name: str, reason: str, *, epoch: int = 0, place: int | None = None) -> None:
        """Report an image, from any worker.

        Args:
            name: For messages; without a place, the image is told from others by it.
            reason: Why it cannot be decoded.
            epoch: In a stream, the epoch: each may have other images.
            place: In a stream, the place in the epoch.
        """
        report = [without_credentials(name), without_credentials(reason), epoch, place]
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(report) + "\n")

    def collect(self) -> None:
        """Gather the reports of all processes; each must call it at the same point.

        The main process logs each name once.

        Raises:
            DataError: There are more than the limit allows; raised in every process.
        """
        for name, reason, epoch, place in gather_object(self._new_reports()):
            self._found.setdefault(epoch, set()).add(name if place is None else place)
            if name not in self._reasons:
                self._reasons[name] = reason
                if PartialState().is_main_process:
                    _log.warning("%s cannot be read (%s); skipped", name, reason)
        allowed = floor(self.max_fraction * self.images + 1e-9)
        if len(self) > allowed:
            name, reason = next(iter(self._reasons.items()))
            raise DataError(
                f"{len(self)} of {self.images} images of {self.split} cannot be read, first {name} ({reason}); "
                f"`max_corrupt` {self.max_fraction:g} allows {allowed}: repair or remove them, or raise `max_corrupt`"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint; a resumed run continues the count and repeats no warning."""
        found = {str(epoch): list(images) for epoch, images in self._found.items()}
        return {"reasons": dict(self._reasons), "found": found}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the state of a checkpoint."""
        self._reasons.update(state["reasons"])
        for epoch, found in state.get("found", {"0": list(state["reasons"])}).items():
            self._found.setdefault(int(epoch), set()).update(found)

    def _new_reports(self) -> list[tuple[str, str, int, int | None]]:
        """Read the new lines of the file; a line that is still being written is left for the next call."""
        with open(self._path, "rb") as file:
            file.seek(self._read)
            lines, _, _ = file.read().rpartition(b"\n")
        if not lines:
            return []
        self._read += len(lines) + 1
        return [tuple(json.loads(line)) for line in lines.split(b"\n")]


def _remove(path: str, owner: int) -> None:
    if os.getpid() == owner and os.path.exists(path):  # a forked worker holds the object too
        os.unlink(path)
