"""Publishable folders for tests: a small vanilla timm model, and functions that edit it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models._hub import save_config_for_hf


def make_folder(folder: Path, arch: str = "test_resnet", **model_args: object) -> Path:
    """Write a publishable folder like that of a training run, with other files beside the published ones."""
    model = timm.create_model(arch, num_classes=7, **model_args)
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.bin").write_bytes(b"state")
    (folder / "log.jsonl").write_text("{}\n")
    save_config_for_hf(model, str(folder / "config.json"))
    edit_config(folder, lambda config: config["model_args"].pop("num_classes"))
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "README.md").write_text("---\ntags: [timm]\nlicense: apache-2.0\n---\n# A model\n")
    return folder


def edit_config(folder: Path, change: Callable[[dict], object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
