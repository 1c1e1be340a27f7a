"""ONNX files in a publishable folder, where transformers.js and optimum look for them."""

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
"""transformers.js has no type for timm's models and runs every image classifier alike; it knows this one."""


def add_onnx(
    folder: Path,
    *,
    calibration_dataset: str | None = None,
    calibration_images: int = 128,
    images: Path | None = None,
    tolerance: float | None = None,
) -> list[str]:
    """Export a publishable folder's model into it: parity is checked first, and a failure leaves nothing new.

    Writes onnx/model.onnx, with a data set to calibrate on onnx/model_quantized.onnx, and what transformers.js needs
    beside them: preprocessor_config.json and onnx/config.json. config.json stays as it is: the `model_type` that
    transformers.js wants there would stop transformers in Python from seeing a timm model.

    Args:
        folder: A publishable folder.
        calibration_dataset: Data set for int8, as `ssia_zoo.data.DataConfig` takes it; nothing is quantised if None.
        calibration_images: How many of its training images calibrate.
        images: Folder of real images for the parity check; scikit-learn's digits if None.
        tolerance: Instead of the exporter's own, for the float32 file.

    Returns:
        The added files, relative to the folder: what `ssia_zoo.hub.publish(..., extra=...)` takes.

    Raises:
        WeightError: If the folder is not fit to be published.
        ConfigError: If the folder cannot be written, or the preprocessing cannot be told to transformers.js.
        ExportError: If the files would differ from PyTorch beyond tolerance.
    """
    folder = Path(folder)
    check_folder(folder)
    name, target = f"local-dir:{folder}", folder / "onnx"
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".onnx-") as made:
            room = Path(made)
            result = export("onnx", name, room / "model.onnx", images=images, tolerance=tolerance)
            if calibration_dataset is not None:
                export(
                    "onnx",
                    name,
                    room / "model_quantized.onnx",
                    precision="int8",
                    images=images,
                    calibration_dataset=calibration_dataset,
                    calibration_images=calibration_images,
                )
            _write(room / "config.json", _javascript_config(result.manifest))
            _write(room / "preprocessor_config.json", _preprocessor(result.manifest["input"]))
            return _move(room, folder, target)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written ({error.strerror}); correct its rights or free space") from error


def _move(room: Path, folder: Path, target: Path) -> list[str]:
    """Give complete files their names; returns them, relative to the folder."""
    fresh = not target.exists()
    target.mkdir(exist_ok=True)
    added = []
    try:
        for file in sorted(room.iterdir()):
            place = folder if file.name == "preprocessor_config.json" else target
            os.replace(file, place / file.name)
            added.append((place / file.name).relative_to(folder).as_posix())
    except OSError:
        if fresh:
            shutil.rmtree(target, ignore_errors=True)
        raise
    return [file for file in ONNX_FILES if file in added]


def _preprocessor(contract: dict[str, Any]) -> dict[str, Any]:
    """In transformers' terms, Python's and JavaScript's: both know this type, and it does what is said here."""
    _, _, height, width = contract["shape"]
    if contract["resize"] is None:
        raise ConfigError(
            f"transformers.js cannot resize to {height} x {width} pixels by crop_mode {contract['crop_mode']!r}; "
            "publish without ONNX"
        )
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": contract["resize"],
        "resample": _RESAMPLE[contract["interpolation"]],
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": contract["mean"],
        "image_std": contract["std"],
    }


def _javascript_config(manifest: dict[str, Any]) -> dict[str, Any]:
    labels = manifest["labels"] or [f"LABEL_{index}" for index in range(manifest["output"]["shape"][-1])]
    return {
        "model_type": _JAVASCRIPT_TYPE,
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
        "num_labels": len(labels),
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
