"""Export a model with torch.export to a .pt2 file, which torch loads without timm and this package.

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
    """Write the model to `path`, with a dynamic batch size; arguments as in to_onnx.py."""
    program = torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    program.example_inputs = None  # else they are stored in the file
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # holds paths of this machine
    torch.export.save(program, path)


def load(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that runs the file in torch: images [N, C, H, W] to logits [N, num_classes]."""
    module = torch.export.load(path).module()

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.from_numpy(images)).numpy()

    return run


if __name__ == "__main__":
    from ssia_zoo.cli import main

    sys.exit(main(["export", "torch-export", *sys.argv[1:]]))
