"""Write exported files all or none, and describe them for the manifest."""

from __future__ import annotations

import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from ssia_zoo.errors import ConfigError
from ssia_zoo.hub import file_sha256

MANIFEST_FORMAT = "ssia-zoo export 1"

_COLORS = {1: "greyscale (Pillow's mode L)", 3: "RGB", 4: "RGBA"}
_CHATTY = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "nncf", "root")


@contextmanager
def staging_dir(out: Path) -> Iterator[Path]:
    """Yield a hidden temporary folder beside `out`; `commit_files` moves the finished files out of it.

    Raises:
        ConfigError: If the folder cannot be written.
    """
    folder = out.with_name(f".{out.name}-{uuid4().hex[:8]}")
    try:  # named beforehand, unlike tempfile's folders, so that a signal right after mkdir leaves nothing
        try:
            folder.mkdir()
        except OSError as error:
            raise ConfigError(f"`out` is {out}: cannot be written ({error.strerror}); choose another folder") from error
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def commit_files(folder: Path, out: Path) -> None:
    """Move all files of `folder` beside `out`, `out` itself last, so that it never exists without the others.

    Files of an earlier export to `out`, which its manifest lists, are replaced, and so is `out` itself.

    Raises:
        ConfigError: If a file cannot be written, a folder has its name, or another file would be replaced.
    """
    manifest = out.with_name(f"{out.name}.json")
    replaced = {out.name, *_manifest_files(manifest)}
    for file in sorted(folder.iterdir()):
        there = out.with_name(file.name)
        if there.is_dir():
            raise ConfigError(f"`out` is {out}, but {there} is a folder; choose another name")
        if there.exists() and file.name not in replaced:
            raise ConfigError(
                f"`out` is {out}, which also writes {there}; a file of that name exists and is not of an earlier "
                f"export to `out`: choose another name, or move that file"
            )
    try:
        for file in sorted(folder.iterdir(), key=lambda file: file.name == out.name):
            os.replace(file, out.with_name(file.name))
    except OSError as error:
        raise ConfigError(f"`out` is {out}: cannot be written ({error.strerror}); choose another name") from error


def _manifest_files(manifest: Path) -> list[str]:
    """Return the names of the files that an earlier export wrote, with its manifest; none if there is no manifest."""
    try:
        described = json.loads(manifest.read_text(encoding="utf-8"))
        return [manifest.name, *described["files"]] if described["format"] == MANIFEST_FORMAT else []
    except (OSError, ValueError, TypeError, LookupError):
        return []


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the exporters' warnings and log; their errors still arrive as exceptions."""
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


def describe_input(config: dict[str, Any]) -> dict[str, Any]:
    """Describe how an image becomes the model's input, in terms that do not need timm.

    Args:
        config: As returned by timm.data.resolve_model_data_config.
    """
    channels, height, width = config["input_size"]
    return {
        "name": "pixel_values",
        "shape": ["batch", channels, height, width],
        "layout": "NCHW",
        "dtype": "float32",
        "color": f"{_COLORS[channels]}, 0 to 1 before normalization",
        "resize": _resize(config),
        "interpolation": config["interpolation"],
        "crop": "center",
        "crop_mode": config["crop_mode"],
        "crop_pct": config["crop_pct"],
        "mean": list(config["mean"]),
        "std": list(config["std"]),
    }


def _resize(config: dict[str, Any]) -> dict[str, int] | None:
    """Return the resize before the center crop as transformers writes it, or None where it has no equivalent.

    It has none for `crop_mode` "border", nor for an input that is not square unless `crop_mode` is "squash".
    """
    height, width = (int(np.floor(side / config["crop_pct"])) for side in config["input_size"][1:])
    if config["crop_mode"] == "squash":
        return {"height": height, "width": width}
    return {"shortest_edge": height} if config["crop_mode"] != "border" and height == width else None


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the size and sha256 of every file in a folder."""
    return {file.name: {"bytes": file.stat().st_size, "sha256": file_sha256(file)} for file in sorted(folder.iterdir())}
