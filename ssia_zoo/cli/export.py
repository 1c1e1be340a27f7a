"""The command `ssia-zoo export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from ssia_zoo.errors import WeightError


def export(
    target: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TARGET")],
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")],
    out: Path,
    precision: Literal["fp32", "fp16", "int8"] = "fp32",
    images: Path | None = None,
    calibration_dataset: str | None = None,
    calibration_images: int = 128,
    image_size: int | tuple[int, int] | None = None,
    tolerance: float | None = None,
    pretrained: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = True,
) -> None:
    """Export a model to another runtime and check its logits there.

    For example:
      ssia-zoo export onnx mobilenetv3_small_050_ssia --out m.onnx
      ssia-zoo export onnx mobilenetv3_small_050_ssia --out m8.onnx --precision int8 --calibration-dataset digits
      ssia-zoo export torch-export mobilenetv3_small_050_ssia --out m.pt2
      ssia-zoo export openvino mobilenetv3_small_050_ssia --out m.xml --precision fp16
      ssia-zoo export executorch mobilenetv3_small_050_ssia --out m.pte

    Args:
        target: onnx, torch-export, openvino or executorch.
        model: Published weight, timm name, folder or hf-hub:org/name.
        out: File to write, or an existing folder; the manifest is written beside the file, as FILE.json.
        precision: openvino has all three, onnx fp32 and int8, the others fp32.
        images: Folder of images for the check; scikit-learn's digits if not given.
        calibration_dataset: Data set for int8: Hub id, folder of parquet files, image folder, or digits.
        calibration_images: Number of training images for calibration.
        image_size: Of the input, pixels: one number for a square, or height and width; the model's own if not given.
        tolerance: Largest logit error, as a fraction of the largest logit; for int8 the largest drop in top-1, points.
        pretrained: Export random weights, to measure speed.
    """
    from ssia_zoo.export.exporter import export as export_to_file
    from ssia_zoo.export.exporter import summary

    try:
        result = export_to_file(
            target,
            model,
            out,
            precision=precision,
            images=images,
            calibration_dataset=calibration_dataset,
            calibration_images=calibration_images,
            image_size=image_size,
            tolerance=tolerance,
            pretrained=pretrained,
        )
    except WeightError as error:
        hint = "; --no-pretrained exports it with random weights" if pretrained else ""
        raise WeightError(f"{error}{hint}") from error
    print(summary(result))
