"""What an export writes: files that appear whole or not at all, and the manifest that says how to use them."""

from __future__ import annotations

import logging
import os
import platform
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from ssia_zoo.errors import ConfigError
from ssia_zoo.hub import file_sha256

_PACKAGES = ("ssia-zoo", "torch", "timm", "onnx", "onnxscript", "onnxruntime", "openvino", "nncf", "executorch")
_CHATTY = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "nncf", "root")


@contextmanager
def room_beside(out: Path) -> Iterator[Path]:
    """A hidden folder beside the artefact, which goes whatever happens: what is whole is renamed out of it.

    Raises:
        ConfigError: If the folder cannot be written.
    """
    try:
        made = tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-", ignore_cleanup_errors=True)
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written ({error.strerror}); name another folder") from error
    with made as room:
        yield Path(room)


def move_out(room: Path, out: Path) -> None:
    """Give the files their names; the artefact last, so that it never stands there incomplete.

    Raises:
        ConfigError: If a name is taken by a folder, or cannot be written.
    """
    taken = [file.name for file in room.iterdir() if out.with_name(file.name).is_dir()]
    if taken:
        raise ConfigError(f"--out {out}: {taken[0]} is a folder there; name another")
    try:
        for file in sorted(room.iterdir(), key=lambda file: file.name == out.name):
            os.replace(file, out.with_name(file.name))
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written ({error.strerror}); name another") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporters' chatter from the user; their errors come as exceptions."""
    loggers = [logging.getLogger(name) for name in _CHATTY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def input_contract(config: dict[str, Any]) -> dict[str, Any]:
    """How an image becomes the file's input, in terms that need no timm.

    Args:
        config: As timm.data.resolve_model_data_config gives it.
    """
    channels, height, width = config["input_size"]
    return {
        "name": "pixel_values",
        "shape": ["batch", channels, height, width],
        "layout": "NCHW",
        "dtype": "float32",
        "color": "RGB, 0 to 1 before normalization",
        "resize": _resize(config),
        "interpolation": config["interpolation"],
        "crop": "center",
        "crop_mode": config["crop_mode"],
        "crop_pct": config["crop_pct"],
        "mean": list(config["mean"]),
        "std": list(config["std"]),
    }


def _resize(config: dict[str, Any]) -> dict[str, int] | None:
    """What comes before the centre crop, in transformers' terms; None for what they cannot say.

    That is a frame around the image ("border"), and an input that is not square and keeps the image's proportions.
    """
    height, width = (int(np.floor(side / config["crop_pct"])) for side in config["input_size"][1:])
    if config["crop_mode"] == "squash":
        return {"height": height, "width": width}
    return {"shortest_edge": height} if config["crop_mode"] != "border" and height == width else None


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and sha256 of every file in a folder."""
    return {file.name: {"bytes": file.stat().st_size, "sha256": file_sha256(file)} for file in sorted(folder.iterdir())}


def versions(packages: Sequence[str] = _PACKAGES) -> dict[str, str]:
    """Versions of what is installed of the packages that take part, and of Python."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
