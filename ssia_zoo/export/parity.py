"""Whether an exported file gives what PyTorch gives: logits and top-1 on real images, accuracy if it is quantised."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ssia_zoo.errors import ClassesError, ConfigError, ExportError
from ssia_zoo.export.images import CalibrationData, RealImages, batches
from ssia_zoo.models.label_names import match_model

Array = npt.NDArray[np.float32]
Runner = Callable[[Array], Array]

_log = logging.getLogger(__name__)

_EVAL_BATCH = 32


def reference(model: nn.Module, real: RealImages, name: str) -> Array:
    """PyTorch's logits.

    Raises:
        ConfigError: If the model does not take images of this size.
        ExportError: If its output is not one finite row a image.
    """
    size = " x ".join(str(side) for side in real.pixels.shape[2:])
    try:
        output = forward(model, real.pixels)
    except Exception as error:  # models raise every kind
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ConfigError(f"{name} does not take images of {size} pixels: {reason}; change --image-size") from error
    if not np.isfinite(output).all():
        raise ExportError(f"{name} gives NaN or infinite logits on {real.source}; there is nothing to compare with")
    return output


def forward(model: nn.Module, images: Array) -> Array:
    """PyTorch's output on a few images at a time.

    Raises:
        TypeError: If it is not a tensor.
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
    """Run the file on batches of these sizes and compare with PyTorch, image by image.

    Returns:
        "images", "source", "batches"; "max_abs_error" of any logit, "max_abs_logit", "top1_agreement" (0 to 1),
        and "worst_image" with its error.
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
    # A class that PyTorch itself holds for as good, to within the error there, is no other answer.
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


def judge(parity: dict[str, Any], tolerance: float, what: str) -> None:
    """Raise if logits differ by more than `tolerance` x max(1, largest logit), or an image gets another class.

    Raises:
        ExportError: Names the worst image.
    """
    allowed = tolerance * max(1.0, parity["max_abs_logit"])
    if not parity["max_abs_error"] <= allowed:
        raise ExportError(
            f"{what} differs from PyTorch by {parity['max_abs_error']:.3g} in a logit of {parity['worst_image']}, "
            f"allowed is {allowed:.3g}; nothing was written: try another precision, or raise --tolerance"
        )
    if parity["top1_agreement"] < 1:
        raise ExportError(
            f"{what} gives another top-1 than PyTorch, worst on {parity['worst_image']}; nothing was written: "
            "try another precision"
        )


def class_outputs(model: Any, data: CalibrationData) -> list[int] | None:
    """For each class of the data the model's output, by name; None if the data cannot tell how accurate the model is.

    Any images calibrate. So data of other classes, or classes without names, are no error: a warning says that the
    accuracy is not measured.
    """
    used = set(data.eval_labels.tolist())
    try:
        outputs = match_model(model, data.label_names, data.dataset, used, by_position=False)
    except ClassesError as error:
        _log.warning("accuracy is not measured, only agreement with float32: %s", error)
        return None
    return list(range(model.num_classes)) if outputs is None else list(outputs)


def accuracy(model: nn.Module, run: Runner, data: CalibrationData, outputs: Sequence[int] | None) -> dict[str, Any]:
    """Accuracy of PyTorch and of the file, in percent, on the evaluation split; how often they agree, in percent.

    The accuracies are left out if `outputs`, which `class_outputs` gives, is None.
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


def judge_accuracy(parity: dict[str, Any], tolerance: float, what: str) -> None:
    """Raise if accuracy (or agreement, where there are no labels) falls by more than `tolerance` percentage points.

    Raises:
        ExportError: Says by how much, and names the image whose logits moved most.
    """
    if "accuracy" in parity:
        loss, measure = parity["accuracy_fp32"] - parity["accuracy"], "top-1"
    else:
        loss, measure = 100 - parity["agreement"], "agreement with float32"
    if not loss <= tolerance:
        raise ExportError(
            f"{what} loses {loss:.1f} points of {measure} on {parity['calibration_dataset']}, allowed are "
            f"{tolerance:g}; logits moved most on {parity['worst_image']}; nothing was written: calibrate with more "
            "images, keep fp32, or raise --tolerance"
        )
