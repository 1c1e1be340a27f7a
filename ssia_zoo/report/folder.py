"""Write the files of a report into a folder, all or none, and nothing outside it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from ssia_zoo.errors import ConfigError

_STAGE = ".unfinished"


def check_folder(folder: Path, names: Collection[str]) -> None:
    """Check, before any work, that a folder can take a report: it is new, empty, or holds only an earlier report.

    Args:
        folder: The folder.
        names: The files that a report may consist of.

    Raises:
        ConfigError: If it is a file, holds other files, or cannot be written.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        what = "which" if existing == folder else f"but {existing}"
        raise ConfigError(f"`report` is {folder}, {what} is a file; choose another folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(f"`report` is {folder}, but {existing} cannot be written; choose another folder")
    if existing == folder:
        found = {path.name for path in folder.iterdir() if not _is_unfinished(path, names)}
        if other := sorted(found - set(names)):
            raise ConfigError(
                f"`report` is {folder}, which holds other files, such as {other[0]}; choose a new folder (only an "
                "earlier report is replaced)"
            )


def _is_unfinished(path: Path, names: Collection[str]) -> bool:
    """Return whether a killed process left this folder: it has the name, and holds nothing but files of a report."""
    return (
        path.name == _STAGE
        and path.is_dir()
        and not path.is_symlink()
        and all(file.name in names and not file.is_dir() for file in path.iterdir())
    )


@contextmanager
def replace_report(folder: Path, names: Collection[str]) -> Iterator[Path]:
    """Yield a hidden folder inside `folder` to write to; at the end, its files replace those of an earlier report.

    After an error, `folder` is as it was before.

    Args:
        folder: Checked by `check_folder`.
        names: The files that a report may consist of.

    Raises:
        ConfigError: If a file cannot be written.
    """
    created = [path for path in (folder, *folder.absolute().parents) if not path.exists()]
    stage = folder / _STAGE
    ours = False
    try:
        if _is_unfinished(stage, names):
            shutil.rmtree(stage)
        stage.mkdir(parents=True)  # fails if it exists: `folder` may have changed since `check_folder`
        ours = True
        yield stage
        for name in sorted({path.name for path in folder.iterdir()} & set(names)):
            if not (stage / name).exists():  # of an earlier report, which had it
                (folder / name).unlink()
        for file in sorted(stage.iterdir()):
            os.replace(file, folder / file.name)
        created = []
    except OSError as error:
        raise ConfigError(f"`report` is {folder}: cannot be written ({error.strerror or error})") from error
    finally:
        if ours:
            shutil.rmtree(stage, ignore_errors=True)
        for path in created:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
