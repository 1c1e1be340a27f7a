"""Check for packages that only some features need, which pip installs as extras."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from ssia_zoo.errors import ConfigError


def require_packages(purpose: str, packages: Sequence[str], install: str) -> None:
    """Check that packages are installed.

    Args:
        purpose: What needs them, for the message.
        packages: Names to import.
        install: What pip installs them by, e.g. "'ssia-zoo[export]'".

    Raises:
        ConfigError: If one is missing; the message names it and the command that installs it.
    """
    if missing := [package for package in packages if importlib.util.find_spec(package) is None]:
        raise ConfigError(f"{purpose} needs {', '.join(missing)}; run: pip install {install}")
