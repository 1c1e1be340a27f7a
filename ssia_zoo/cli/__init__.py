"""The command `ssia-zoo`."""

from ssia_zoo.cli.main import main

__all__ = ["main"]
