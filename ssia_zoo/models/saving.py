"""A trained model as a folder in the Hub's layout, which plain timm and transformers load without this package."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from ssia_zoo.data.preprocessing import Preprocessing
from ssia_zoo.errors import TrainingError, without_credentials
from ssia_zoo.models.features import TimmModel
from ssia_zoo.models.registry import architecture_cfg
from ssia_zoo.timm_names import save_config_for_hf

_TRAINING_ONLY = ("drop_rate", "drop_path_rate")
"""Arguments of a model that change nothing at inference, and that not every vanilla loader would want."""


def public_name(name: str) -> str:
    """A model's or data set's name as others may read it: of a folder on this machine only the last part."""
    if re.fullmatch(r"[\w-][\w.-]*", name):  # names no folder, or none whose place is told
        return name
    prefix, path = ("local-dir:", name[10:]) if name.startswith("local-dir:") else ("", name)
    folder = Path(path).expanduser()
    return prefix + folder.resolve().name if prefix or folder.is_dir() else without_credentials(name)


def public_model(name: str) -> str:
    """A model's name as others may read it; a folder's cannot be taken for that of a registered model."""
    public = public_name(name)
    return f"local-dir:{public}" if "/" in name and ":" not in name and Path(name).expanduser().is_dir() else public


def write_model_folder(
    model: TimmModel,
    folder: Path,
    *,
    architecture: str,
    label_names: Sequence[str],
    preprocessing: Preprocessing,
    metadata: dict[str, Any],
    card: str,
) -> None:
    """Write config.json, model.safetensors (float32) and README.md; each file is replaced whole or not at all.

    The model's `pretrained_cfg` is replaced by one that describes its new weights.

    Args:
        model: The bare student.
        folder: Existing folder.
        architecture: Vanilla timm architecture, which plain timm knows.
        label_names: One name a class.
        preprocessing: How images become input.
        metadata: Goes under the key "ssia" of config.json, which timm and transformers leave alone.
        card: Text of README.md.

    Raises:
        TrainingError: If a weight is NaN or infinite.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise TrainingError(f"{name} holds NaN or infinite values; such weights are not saved, lower --lr or clip")
    tensors = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    cfg = replace(
        architecture_cfg(architecture, preprocessing.input_size),
        num_classes=len(label_names),
        **asdict(preprocessing),
    )
    model.pretrained_cfg = cfg.to_dict()
    config, weights, readme = (folder / f".{name}" for name in ("config.json", "model.safetensors", "README.md"))
    try:
        save_config_for_hf(model, str(config), model_config={"label_names": list(label_names), "ssia": metadata})
        _tidy_arguments(config)
        weights.write_bytes(save(tensors, metadata={"format": "pt"}))  # transformers refuses a file without the format
        readme.write_text(card, encoding="utf-8")
        for path in (config, weights, readme):
            os.replace(path, folder / path.name.removeprefix("."))
    finally:  # of a full disk
        for path in (config, weights, readme):
            path.unlink(missing_ok=True)


def _tidy_arguments(path: Path) -> None:
    """Leave out of `model_args` what stands elsewhere: transformers passes num_classes itself and fails on a second."""
    config = json.loads(path.read_text(encoding="utf-8"))
    arguments = config.pop("model_args", {})
    arguments = {k: v for k, v in arguments.items() if k not in ("num_classes", *_TRAINING_ONLY)}
    if arguments:
        config["model_args"] = arguments
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
