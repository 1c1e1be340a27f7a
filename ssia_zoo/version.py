"""The version of this package, and of those that it works with."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

__version__ = "0.2.0"

_PACKAGES = ("ssia-zoo", "torch", "timm", "onnx", "onnxscript", "onnxruntime", "openvino", "nncf", "executorch")


def versions(packages: Sequence[str] = _PACKAGES) -> dict[str, str]:
    """Return the version of Python and of each of these packages that is installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
