"""What a folder must be before it may be published: a complete model that vanilla timm loads, and nothing beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError, safe_open

from ssia_zoo._hub_errors import one_line
from ssia_zoo.errors import WeightError

PUBLISHED_FILES = ("config.json", "model.safetensors", "README.md")
"""The files of a publishable folder: the only ones that leave the machine."""


def check_folder(folder: Path) -> None:
    """Check that a folder holds a complete model that vanilla timm loads, and nothing beside it.

    Raises:
        WeightError: If a file is missing or damaged, the configuration does not name a vanilla timm architecture, or
            the tensors are not finite float32 of exactly that architecture's names and shapes.
    """
    folder = Path(folder)
    for name in PUBLISHED_FILES:
        if not (folder / name).is_file():
            raise WeightError(
                f"{folder / name} is missing; a publishable folder holds {', '.join(PUBLISHED_FILES)}: "
                "name the folder that the training wrote them to"
            )
    _check_config(folder / "config.json")
    _check_tensors(folder / "model.safetensors", _vanilla_tensors(folder))


def _check_config(path: Path) -> None:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightError(f"{path} is not readable JSON ({error}); write the folder anew") from error
    for key, kind in (("architecture", str), ("num_classes", int), ("pretrained_cfg", dict)):
        if not isinstance(config, dict) or not isinstance(config.get(key), kind):
            raise WeightError(f"{path} has no valid {key!r}; expected timm's format of config.json: write it anew")
    arch = config["architecture"]
    if arch.split(".")[0].endswith("_ssia"):
        raise WeightError(
            f"{path} names the architecture {arch!r}, but published weights name the vanilla architecture: "
            f"write {arch.split('.')[0].removesuffix('_ssia')!r}"
        )
    if not timm.is_model(arch):
        raise WeightError(
            f"{path} names the architecture {arch!r}, which timm {timm.__version__} does not know; "
            "timm.list_models() lists what it knows"
        )


def _vanilla_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The state dict of the model that timm builds for this folder, without loading its weights."""
    # The training goes on after a check, so its random numbers must be what they would have been without it.
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                model = timm.create_model(f"local-dir:{folder}", pretrained=False)
        except Exception:  # some architectures compute with values while being built, which meta tensors do not have
            try:
                model = timm.create_model(f"local-dir:{folder}", pretrained=False)
            except Exception as error:
                raise WeightError(
                    f"{folder / 'config.json'} describes a model that timm {timm.__version__} cannot build "
                    f"({one_line(error)}); correct it or write it anew"
                ) from error
    tensors: dict[str, torch.Tensor] = model.state_dict()
    return tensors


def _check_tensors(path: Path, vanilla: dict[str, torch.Tensor]) -> None:
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            if unexpected := names - vanilla.keys():
                raise WeightError(
                    f"{path} holds tensors that the vanilla architecture does not have: {_some(unexpected)}; "
                    "training-only parts are never published: export the bare model"
                )
            if missing := vanilla.keys() - names:
                raise WeightError(f"{path} lacks tensors of its architecture: {_some(missing)}; export the whole model")
            for name, expected in vanilla.items():
                _check_tensor(path, name, file.get_tensor(name), expected)
    except (SafetensorError, OSError) as error:
        raise WeightError(f"{path} is not a readable safetensors file ({one_line(error)}); write it anew") from error


def _check_tensor(path: Path, name: str, tensor: torch.Tensor, expected: torch.Tensor) -> None:
    if tensor.shape != expected.shape:
        raise WeightError(
            f"{path}: {name} has the shape {tuple(tensor.shape)}, its architecture has {tuple(expected.shape)}; "
            "check architecture, num_classes and model_args in config.json"
        )
    dtype = torch.float32 if expected.is_floating_point() else expected.dtype  # counters stay integers
    if tensor.dtype != dtype:
        raise WeightError(f"{path}: {name} is {tensor.dtype}, published is {dtype}: save model.float()")
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        raise WeightError(f"{path}: {name} has NaN or infinite values; publish an earlier, sound checkpoint")


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:3]) + (f" and {len(ordered) - 3} more" if len(ordered) > 3 else "")
