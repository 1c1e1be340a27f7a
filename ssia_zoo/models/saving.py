"""Write a trained model as a folder in the Hub's layout, which timm and transformers load without this package."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from ssia_zoo.data.preprocessing import Preprocessing
from ssia_zoo.errors import TrainingError, without_credentials
from ssia_zoo.files import atomic_write
from ssia_zoo.models.features import TimmModel
from ssia_zoo.models.label_names import MULTI_LABEL
from ssia_zoo.models.registry import architecture_cfg
from ssia_zoo.timm_names import save_config_for_hf

_TRAINING_ONLY = ("drop_rate", "drop_path_rate")
"""Arguments without effect at inference, which not every loader accepts."""


def public_name(name: str) -> str:
    """Return a model's or data set's name for publication: of a folder's path only the last part."""
    if re.fullmatch(r"[\w-][\w.-]*", name):  # contains no path
        return name
    prefix, path = ("local-dir:", name[10:]) if name.startswith("local-dir:") else ("", name)
    folder = Path(path).expanduser()
    return prefix + folder.resolve().name if prefix or folder.is_dir() else without_credentials(name)


def public_model(name: str) -> str:
    """Return a model's name for publication; a folder's has the prefix "local-dir:", unlike a registered model's."""
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
    threshold: float | None = None,
) -> None:
    """Write config.json, model.safetensors (float32) and README.md; existing files are replaced atomically.

    The model's `pretrained_cfg` is replaced by one that describes its weights.

    Args:
        model: The model, without training-only parts.
        folder: Existing folder.
        architecture: Vanilla timm architecture.
        label_names: One name per class, in the order of the outputs.
        preprocessing: How images become the model's input.
        metadata: Stored in config.json as "ssia", which timm and transformers ignore.
        card: Content of README.md.
        threshold: For a model of several labels an image: the probability from which a class counts as predicted.

    Raises:
        TrainingError: If a weight, or the loss in `metadata`, is NaN or infinite.
    """
    loss = metadata.get("metrics", {}).get("loss", 0.0)
    if not math.isfinite(loss):
        raise TrainingError(f"the evaluation's loss is {loss}: the model is not saved; lower `lr` or clip gradients")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise TrainingError(f"{name} holds NaN or infinite values and is not saved; lower `lr` or clip gradients")
    tensors = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    cfg = replace(
        architecture_cfg(architecture, preprocessing.input_size),
        num_classes=len(label_names),
        **asdict(preprocessing),
    )
    model.pretrained_cfg = cfg.to_dict()
    with (
        atomic_write(folder / "README.md") as readme,
        atomic_write(folder / "model.safetensors") as weights,
        atomic_write(folder / "config.json") as config,
    ):
        described: dict[str, Any] = {"label_names": list(label_names), "ssia": metadata}
        if threshold is not None:
            described |= {"problem_type": MULTI_LABEL, "threshold": threshold}
        save_config_for_hf(model, str(config), model_config=described)
        _tidy_arguments(config)
        weights.write_bytes(save(tensors, metadata={"format": "pt"}))  # transformers requires the format
        readme.write_text(card, encoding="utf-8")


def _tidy_arguments(path: Path) -> None:
    """Remove from `model_args` num_classes, which transformers would pass twice, and training-only arguments."""
    config = json.loads(path.read_text(encoding="utf-8"))
    arguments = config.pop("model_args", {})
    arguments = {k: v for k, v in arguments.items() if k not in ("num_classes", *_TRAINING_ONLY)}
    if arguments:
        config["model_args"] = arguments
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
