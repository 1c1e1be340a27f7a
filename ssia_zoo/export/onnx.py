"""Add ONNX files to a publishable folder, where transformers.js and Optimum look for them."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ssia_zoo.errors import ConfigError
from ssia_zoo.export.exporter import export
from ssia_zoo.hub.folder import ONNX_FILES, check_folder

_RESAMPLE = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
_JAVASCRIPT_TYPE = "resnet"
"""transformers.js has no type for timm models; it runs all types of image classifiers alike, so any known one works."""


def add_onnx(
    folder: Path,
    *,
    calibration_dataset: str | None = None,
    calibration_images: int = 128,
    images: Path | None = None,
    tolerance: float | None = None,
) -> list[str]:
    """Export the model of a publishable folder to ONNX, inside the folder; a failure leaves the folder unchanged.

    Writes onnx/model.onnx, onnx/model_quantized.onnx if there is a data set for calibration, and for transformers.js
    onnx/config.json and onnx/preprocessor_config.json. Outside onnx/ nothing is added or changed, so that transformers
    in Python still recognises a timm model and prepares images as timm does: its processors that transformers.js knows
    crop some images one pixel off.

    Args:
        folder: A publishable folder.
        calibration_dataset: Data set for int8, as `ssia_zoo.data.DataConfig` takes it; no int8 file if None.
        calibration_images: Number of training images for calibration.
        images: Folder of images for the parity check; scikit-learn's digits if None.
        tolerance: Replaces the exporter's tolerance for float32.

    Returns:
        The added files, relative to the folder, for `ssia_zoo.hub.publish(..., extra=...)`.

    Raises:
        WeightError: If the folder cannot be published as it is.
        ConfigError: If the folder cannot be written, or transformers.js has no equivalent of the preprocessing.
        ExportError: If a file differs from PyTorch beyond tolerance.
    """
    folder = Path(folder)
    check_folder(folder)
    name, target = f"local-dir:{folder}", folder / "onnx"
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".onnx-") as temporary:
            staging = Path(temporary)
            result = export("onnx", name, staging / "model.onnx", images=images, tolerance=tolerance)
            if calibration_dataset is not None:
                export(
                    "onnx",
                    name,
                    staging / "model_quantized.onnx",
                    precision="int8",
                    images=images,
                    calibration_dataset=calibration_dataset,
                    calibration_images=calibration_images,
                )
            _write(staging / "config.json", _javascript_config(result.manifest))
            _write(staging / "preprocessor_config.json", _preprocessor(result.manifest["input"]))
            return _commit(staging, folder, target)
    except OSError as error:
        raise ConfigError(f"cannot write {folder} ({error.strerror}); check permissions and free space") from error


def _commit(staging: Path, folder: Path, target: Path) -> list[str]:
    """Move finished files into the folder; return their names relative to it."""
    fresh = not target.exists()
    places = {file: target / file.name for file in sorted(staging.iterdir())}
    ours = (target / "model.onnx.json").exists()  # the manifest of an earlier call
    if taken := [place.relative_to(folder) for place in places.values() if place.exists() and not ours]:
        raise ConfigError(f"{folder}: {taken[0]} exists and is not of an earlier export; move it, or leave out ONNX")
    target.mkdir(exist_ok=True)
    added = []
    try:
        for file, place in places.items():
            os.replace(file, place)
            added.append(place.relative_to(folder).as_posix())
    except OSError:
        if fresh:
            shutil.rmtree(target, ignore_errors=True)
        raise
    return [file for file in ONNX_FILES if file in added]


def _preprocessor(preprocessing: dict[str, Any]) -> dict[str, Any]:
    """Describe the preprocessing for transformers.js."""
    _, channels, height, width = preprocessing["shape"]
    if channels != 3:
        raise ConfigError(
            f"transformers.js prepares RGB images only, and the model takes {channels} channels; publish without ONNX"
        )
    if preprocessing["resize"] is None:
        raise ConfigError(
            f"transformers.js cannot resize to {height} x {width} pixels with crop_mode "
            f"{preprocessing['crop_mode']!r}; publish without ONNX"
        )
    return {
        "image_processor_type": "CLIPImageProcessor",  # has no options of its own; timm's type is not known there
        "do_resize": True,
        "size": preprocessing["resize"],
        "resample": _RESAMPLE[preprocessing["interpolation"]],
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": preprocessing["mean"],
        "image_std": preprocessing["std"],
    }


def _javascript_config(manifest: dict[str, Any]) -> dict[str, Any]:
    threshold = manifest["threshold"]
    labels = manifest["labels"] or [f"LABEL_{index}" for index in range(manifest["output"]["shape"][-1])]
    return {
        "model_type": _JAVASCRIPT_TYPE,
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
        "num_labels": len(labels),
        # Of several labels an image: a sigmoid for each class, not a softmax, and from which probability on it counts.
        **({"problem_type": "multi_label_classification", "threshold": threshold} if threshold is not None else {}),
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
