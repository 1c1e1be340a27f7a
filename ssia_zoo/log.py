"""Set up logging for the command line."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from ssia_zoo.errors import with_flags, without_credentials


def show_log(level: int = logging.WARNING) -> None:
    """Print this package's log on stderr, for commands; a library leaves logging to its caller.

    Credentials are removed, in messages of other packages as well.
    """
    logging.setLogRecordFactory(_Record)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("ssia_zoo").setLevel(level)
    logging.getLogger("huggingface_hub").propagate = False  # it has a handler of its own: each line would appear twice


@contextmanager
def quiet(level: int = logging.WARNING) -> Iterator[None]:
    """Log this package's messages from this level on only."""
    package = logging.getLogger("ssia_zoo")
    before = package.level
    package.setLevel(level)
    try:
        yield
    finally:
        package.setLevel(before)


class _Record(logging.LogRecord):
    def getMessage(self) -> str:
        message = without_credentials(super().getMessage())
        return with_flags(message) if self.name.partition(".")[0] == "ssia_zoo" else message
