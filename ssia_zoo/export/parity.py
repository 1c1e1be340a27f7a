"""Compare an exported file with PyTorch on real images: logits and top-1, and accuracy for int8."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ssia_zoo.errors import ClassesError, ConfigError, ExportError, one_line
from ssia_zoo.export.images import Array, CalibrationData, RealImages, batches
from ssia_zoo.models.label_names import match_model

Runner = Callable[[Array], Array]
"""Runs an exported file: float32 images [N, C, H, W] to logits [N, num_classes]."""

_log = logging.getLogger(__name__)

_EVAL_BATCH = 32


def reference(model: nn.Module, real: RealImages, name: str) -> Array:
    """Compute PyTorch's logits.

    Raises:
        ConfigError: If the model does not take images of this size.
        ExportError: If a logit is NaN or infinite.
    """
    size = " x ".join(str(side) for side in real.pixels.shape[2:])
    try:
        output = forward(model, real.pixels)
    except Exception as error:  # models raise any exception
        reason = one_line(error, 200)
        raise ConfigError(f"{name} does not take images of {size} pixels: {reason}; change `image_size`") from error
    if not np.isfinite(output).all():
        raise ExportError(f"{name} gives NaN or infinite logits on {real.source}, so parity cannot be checked")
    return output


def forward(model: nn.Module, images: Array) -> Array:
    """Run a model in batches.

    Raises:
        TypeError: If the output is not a tensor.
    """
    parts = []
    with torch.inference_mode():
        for batch in batches(images, _EVAL_BATCH):
            output: Any = model(torch.from_numpy(batch))
            if not isinstance(output, torch.Tensor):
                raise TypeError(f"the output is a {type(output).__name__}, not a tensor")
            parts.append(output.numpy())
    result: Array = np.concatenate(parts)
    return result


def compare(run: Runner, real: RealImages, expected: Array, sizes: Sequence[int]) -> dict[str, Any]:
    """Run the file in batches of these sizes and compare its logits with PyTorch's, image by image.

    Returns:
        "images", "source", "batches"; "max_abs_error" (of any logit), "max_abs_logit", "top1_agreement" (0 to 1),
        and "worst_image", the image with the largest error.
    """
    parts, start = [], 0
    for size in sizes:
        parts.append(np.asarray(run(real.pixels[start : start + size]), dtype=np.float32))
        start += size
    got = np.concatenate(parts)
    if got.shape != expected.shape:
        raise ValueError(f"the output has the shape {got.shape}, PyTorch's {expected.shape}")
    error = np.abs(got - expected).reshape(len(got), -1).max(axis=1)
    error[~np.isfinite(got).reshape(len(got), -1).all(axis=1)] = np.inf
    flat, flat_expected = got.reshape(len(got), -1), expected.reshape(len(got), -1)
    top, top_expected = flat.argmax(axis=1), flat_expected.argmax(axis=1)
    rows = np.arange(len(got))
    margin = flat_expected[rows, top_expected] - flat_expected[rows, top]
    # Two classes that PyTorch itself separates by less than the numerical error count as a tie.
    other = (top != top_expected) & (margin > 2 * error)
    worst = int(np.argmax(error))
    return {
        "source": real.source,
        "images": len(got),
        "batches": list(sizes),
        "max_abs_error": float(error[worst]),
        "max_abs_logit": float(np.abs(expected).max()),
        "top1_agreement": float(1 - other.mean()),
        "worst_image": real.names[worst],
    }


def check_parity(parity: dict[str, Any], tolerance: float, what: str) -> None:
    """Check that no logit differs by more than `tolerance` x max(1, largest logit) and that top-1 is the same.

    Raises:
        ExportError: If the check fails; names the worst image.
    """
    allowed = tolerance * max(1.0, parity["max_abs_logit"])
    if not parity["max_abs_error"] <= allowed:
        raise ExportError(
            f"{what} differs from PyTorch by {parity['max_abs_error']:.3g} in a logit of {parity['worst_image']} "
            f"(allowed: {allowed:.3g}); no file was written: try another precision, or raise `tolerance`"
        )
    if parity["top1_agreement"] < 1:
        raise ExportError(
            f"{what} predicts another class than PyTorch, with the largest error on {parity['worst_image']}; "
            "no file was written: try another precision"
        )


def class_outputs(model: Any, data: CalibrationData) -> list[int] | None:
    """Return the model's output for each class of the data, matched by name.

    Any images can calibrate, so classes that do not match are not an error: the result is None, and a warning says
    that accuracy is not measured.
    """
    used = set(data.eval_labels.tolist())
    try:
        outputs = match_model(model, data.label_names, data.dataset, used, by_position=False)
    except ClassesError as error:
        _log.warning("accuracy is not measured, only agreement with float32: %s", error)
        return None
    return list(range(model.num_classes)) if outputs is None else list(outputs)


def accuracy(model: nn.Module, run: Runner, data: CalibrationData, outputs: Sequence[int] | None) -> dict[str, Any]:
    """Measure how often the file agrees with PyTorch on the evaluation split, and the accuracy of both, in percent.

    Args:
        model: The model.
        run: Runs the file.
        data: The evaluation images.
        outputs: As returned by `class_outputs`; accuracy is left out if None.
    """
    logits = forward(model, data.eval_images)
    logits_got = np.concatenate([run(batch) for batch in batches(data.eval_images, _EVAL_BATCH)])
    expected, got = logits.argmax(axis=1), logits_got.argmax(axis=1)
    result: dict[str, Any] = {
        "calibration_dataset": data.dataset,
        "calibration_images": len(data.images),
        "accuracy_images": len(data.eval_labels),
        "agreement": float(100 * (got == expected).mean()),
    }
    if outputs is not None:
        missing = np.where(np.asarray(outputs) < 0, -np.inf, 0)
        for name, values in (("accuracy_fp32", logits), ("accuracy", logits_got)):
            result[name] = float(100 * ((values[:, outputs] + missing).argmax(axis=1) == data.eval_labels).mean())
    return result


def check_accuracy(parity: dict[str, Any], tolerance: float, what: str) -> None:
    """Check that accuracy falls by at most `tolerance` percentage points, or agreement where accuracy is unknown.

    Raises:
        ExportError: If the check fails; names the image with the largest logit error.
    """
    if "accuracy" in parity:
        loss, measure = parity["accuracy_fp32"] - parity["accuracy"], "top-1"
    else:
        loss, measure = 100 - parity["agreement"], "agreement with float32"
    if not loss <= tolerance:
        raise ExportError(
            f"{what} loses {loss:.1f} points of {measure} on {parity['calibration_dataset']} (allowed: {tolerance:g}); "
            f"the largest logit error is on {parity['worst_image']}; no file was written: calibrate with more images, "
            "use fp32, or raise `tolerance`"
        )
