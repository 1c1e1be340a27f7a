"""Export a model to ONNX, float32 or statically quantized to int8.

python export/to_onnx.py resnet18 --out resnet18.onnx
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

SUFFIX = ".onnx"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
PRECISIONS = ("fp32", "int8")
OPSET = 18
NOTES = {"opset": OPSET}

_DEEP_ATTENTION = ("timm.models.hiera", "timm.models.nest", "timm.models.twins", "timm.models.vision_transformer_sam")
_LARGEST_FILE = 2**31 - 2**20  # bytes; protobuf is limited to 2 GiB, so larger weights go into a second file


def convert(
    model: torch.nn.Module, example: torch.Tensor, path: Path, precision: str, calibration: Sequence[np.ndarray]
) -> None:
    """Write the model to `path`, with a dynamic batch size.

    Args:
        model: A model in eval mode.
        example: Two images [2, C, H, W].
        path: File to write.
        precision: One of PRECISIONS.
        calibration: Batches of preprocessed images, for int8 only.
    """
    import onnx

    shapes = ({0: torch.export.Dim("batch")},)
    with _plain_attention(model):
        program: Any = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=["pixel_values"],
            output_names=["logits"],
            opset_version=OPSET,
            verbose=False,
        )
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces hold paths of this machine
        node.doc_string = None
    _restore_constants(program.model.graph)
    size = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    program.save(path, external_data=size > _LARGEST_FILE)
    if precision == "int8":
        _quantize(path, calibration)
    onnx.checker.check_model(str(path), full_check=True)


def load(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that runs the file in onnxruntime on the CPU: images [N, C, H, W] to logits [N, classes]."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["logits"], {"pixel_values": images})[0]


def _restore_constants(graph: Any) -> None:
    """Restore constants that onnxscript 0.7.2 loses when it merges consecutive clamps: their limits share a name."""
    for node in graph.all_nodes():
        for value in node.inputs:
            known = value is None or value.const_value is None or value.producer() is not None
            if not known and not value.is_initializer():
                value.name = f"{value.name}_{node.name}"
                graph.register_initializer(value)


@contextmanager
def _plain_attention(model: torch.nn.Module) -> Iterator[None]:
    """Disable fused attention where it has five dimensions: torch.onnx translates fused attention of four only."""
    fused = [m for m in model.modules() if type(m).__module__ in _DEEP_ATTENTION and getattr(m, "fused_attn", False)]
    for module in fused:
        module.fused_attn = False
    try:
        yield
    finally:
        for module in fused:
            module.fused_attn = True


def _quantize(path: Path, batches: Sequence[np.ndarray]) -> None:
    """Quantize a float file in place: int8 weights (per channel) and activations."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"pixel_values": batch}

    prepared = path.with_suffix(".prepared.onnx")
    quant_pre_process(path, prepared, skip_symbolic_shape=True)  # dynamo exports complete shapes
    quantize_static(
        prepared,
        path,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
    )
    prepared.unlink()


if __name__ == "__main__":
    from ssia_zoo.cli import main

    sys.exit(main(["export", "onnx", *sys.argv[1:]]))
