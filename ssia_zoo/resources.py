"""Find hub_configs/ and export/, in a checkout or an installed wheel."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ssia_zoo.errors import SSIAZooError


def resource_dir(name: Literal["hub_configs", "export"]) -> Path:
    """Find a folder of files that ship with this package.

    Args:
        name: The folder's name at the top of a checkout; in a wheel it is inside the package, with an underscore.

    Raises:
        SSIAZooError: If it does not exist.
    """
    package = Path(__file__).resolve().parent
    for candidate in (package / f"_{name}", package.parent / name):
        if candidate.is_dir():
            return candidate
    raise SSIAZooError(f"{name}/ is missing next to {package}; reinstall ssia-zoo")
