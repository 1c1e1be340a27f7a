"""Exports a model with torch.export to a .pt2 file, which torch loads without timm and without this package.

python export/to_torch_export.py resnet18 --out resnet18.pt2
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

SUFFIX = ".pt2"
PACKAGES = ("torch",)
PRECISIONS = ("fp32",)
NOTES: dict[str, object] = {}


def convert(
    model: torch.nn.Module, example: torch.Tensor, path: Path, precision: str, calibration: Sequence[np.ndarray]
) -> None:
    """Write the model to `path`; the batch is dynamic. See to_onnx.py for the arguments."""
    program = torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    program.example_inputs = None  # they would be stored, and are of no use
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it tells the paths of the machine
    torch.export.save(program, path)


def load(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """A function that runs the file in torch: N x channels x height x width to N x classes."""
    module = torch.export.load(path).module()

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.from_numpy(images)).numpy()

    return run


if __name__ == "__main__":
    from ssia_zoo.export.exporter import main

    sys.exit(main("torch-export"))
