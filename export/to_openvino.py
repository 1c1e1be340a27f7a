"""Export a model to OpenVINO IR (.xml and .bin): float32, float16 weights, or int8 by nncf.

python export/to_openvino.py resnet18 --out resnet18.xml --precision fp16
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

SUFFIX = ".xml"
PACKAGES = ("onnx", "onnxscript", "openvino")
PACKAGES_INT8 = ("nncf",)
PRECISIONS = ("fp32", "fp16", "int8")
NOTES: dict[str, object] = {}


def convert(
    model: torch.nn.Module, example: torch.Tensor, path: Path, precision: str, calibration: Sequence[np.ndarray]
) -> None:
    """Write the model to `path` and its weights beside it, with a dynamic batch size; arguments as in to_onnx.py.

    The model is exported to ONNX first: from torch's graph, OpenVINO loses the image size and the names.
    """
    import openvino

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # above 2 GiB it has two files, read lazily
        onnx_file = Path(folder) / "model.onnx"
        _to_onnx().convert(model, example, onnx_file, "fp32", ())
        converted = openvino.convert_model(onnx_file)
        if precision == "int8":
            import nncf

            data = nncf.Dataset(list(calibration))
            with contextlib.redirect_stdout(io.StringIO()):  # progress bars
                converted = nncf.quantize(converted, data, subset_size=len(calibration))
        openvino.save_model(converted, path, compress_to_fp16=precision == "fp16")


def load(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that runs the file in OpenVINO on the CPU: images [N, C, H, W] to logits [N, num_classes].

    Layers that are not quantized run in float32.
    """
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    return lambda images: compiled(images)[0]


def _to_onnx() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ssia_zoo_to_onnx", Path(__file__).with_name("to_onnx.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    from ssia_zoo.cli import main

    sys.exit(main(["export", "openvino", *sys.argv[1:]]))
