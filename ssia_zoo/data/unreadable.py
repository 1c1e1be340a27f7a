"""Images that cannot be decoded: named once, counted over workers and processes, and a limit that stops the run."""

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

    Each worker appends a line for an image to a temporary file that the process it works for reads: nobody waits for
    anybody, and a worker that dies leaves nothing locked.

    Args:
        of: What the images are, for messages: "the training images".
        images: Their number.
        max_fraction: Fraction of them that may be unreadable; 0 stops at the first.
    """

    def __init__(self, of: str, images: int, max_fraction: float) -> None:
        self.of = of
        self.images = images
        self.max_fraction = max_fraction
        self._reasons: dict[str, str] = {}
        self._read = 0
        file, self._path = tempfile.mkstemp(prefix="ssia_zoo_unreadable_", suffix=".jsonl")
        os.close(file)
        weakref.finalize(self, _remove, self._path, os.getpid())

    def __len__(self) -> int:
        """Images named so far, of all processes that `collect` heard of."""
        return len(self._reasons)

    def add(self, name: str, reason: str) -> None:
        """Tell of an image, from any worker."""
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps([without_credentials(name), without_credentials(reason)]) + "\n")

    def collect(self) -> None:
        """Take in what the workers of all processes told; every process must call it at the same point.

        The main process warns of each image once.

        Raises:
            DataError: There are more than the limit allows; in every process alike.
        """
        for name, reason in gather_object(self._told()):
            if name not in self._reasons:
                self._reasons[name] = reason
                if PartialState().is_main_process:
                    _log.warning("%s cannot be read (%s); skipped", name, reason)
        allowed = floor(self.max_fraction * self.images + 1e-9)
        if len(self) > allowed:
            name, reason = next(iter(self._reasons.items()))
            raise DataError(
                f"{len(self)} of {self.images} images of {self.of} cannot be read, first {name} ({reason}); at most "
                f"{allowed} may be (--max-corrupt {self.max_fraction:g}): mend or remove them, or raise --max-corrupt"
            )

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints, so that a resumed run counts on and repeats no warning."""
        return {"reasons": dict(self._reasons)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what was saved."""
        self._reasons.update(state["reasons"])

    def _told(self) -> list[tuple[str, str]]:
        """New lines of the file; one that is still being written is left for the next time."""
        with open(self._path, "rb") as file:
            file.seek(self._read)
            lines, _, _ = file.read().rpartition(b"\n")
        if not lines:
            return []
        self._read += len(lines) + 1
        return [(name, reason) for name, reason in map(json.loads, lines.split(b"\n"))]


def _remove(path: str, owner: int) -> None:
    if os.getpid() == owner and os.path.exists(path):  # a forked worker has the object too
        os.unlink(path)
