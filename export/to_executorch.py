"""Export a model to an ExecuTorch program (.pte) for the XNNPACK backend.

python export/to_executorch.py resnet18 --out resnet18.pte
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

SUFFIX = ".pte"
PACKAGES = ("executorch",)
PRECISIONS = ("fp32",)
LARGEST_BATCH = 15
"""ExecuTorch plans memory ahead of time, so the largest batch is fixed at export."""
NOTES = {"backend": "xnnpack", "largest_batch": LARGEST_BATCH}


def convert(
    model: torch.nn.Module, example: torch.Tensor, path: Path, precision: str, calibration: Sequence[np.ndarray]
) -> None:
    """Write the model to `path`, for batches of 1 to LARGEST_BATCH images; arguments as in to_onnx.py."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    batch = torch.export.Dim("batch", max=LARGEST_BATCH + 1)  # with a limit of 16 it takes 15
    program = torch.export.export(model, (example,), dynamic_shapes=({0: batch},))
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    path.write_bytes(lowered.to_executorch().buffer)


def load(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that runs the file in ExecuTorch: images [N, C, H, W] to logits [N, num_classes]."""
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(path).load_method("forward")
    return lambda images: method.execute([torch.from_numpy(images)])[0].numpy().copy()


if __name__ == "__main__":
    from ssia_zoo.cli import main

    sys.exit(main(["export", "executorch", *sys.argv[1:]]))
