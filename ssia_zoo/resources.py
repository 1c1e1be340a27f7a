"""Where hub_configs/ and export/ are, in a checkout and in an installed wheel."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ssia_zoo.errors import SSIAZooError


def resource_dir(name: Literal["hub_configs", "export"]) -> Path:
    """Find a folder of files that ship with this package.

    Args:
        name: The folder's name at the top of a checkout; a wheel holds it inside the package, with an underscore.

    Raises:
        SSIAZooError: If neither is there.
    """
    package = Path(__file__).resolve().parent
    for candidate in (package / f"_{name}", package.parent / name):
        if candidate.is_dir():
            return candidate
    raise SSIAZooError(f"{name}/ is missing beside {package}; the installation is damaged: reinstall ssia-zoo")
