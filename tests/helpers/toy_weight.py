"""A published weight for tests: a small model with random values and its JSON, as in hub_configs/."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file

from ssia_zoo.hub import file_sha256
from ssia_zoo.models.registry import architecture_cfg
from ssia_zoo.models.weight import PublishedWeight, read_published_weight

CLASSES = ("ant", "bee", "cat", "dog", "elk")


def write_toy_weight(folder: Path, arch: str = "test_resnet", tag: str = "toys_r64", **changes: Any) -> PublishedWeight:
    """Write NAME.safetensors (float16) and NAME.json; `changes` replaces fields of the JSON."""
    name, size = f"{arch}_ssia.{tag}", (3, 64, 64)
    cfg = replace(architecture_cfg(arch, size), num_classes=len(CLASSES))
    torch.manual_seed(0)
    model = timm.create_model(arch, pretrained_cfg=cfg, num_classes=len(CLASSES))
    halves = {k: t.half().contiguous() if t.is_floating_point() else t for k, t in model.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(halves, folder / f"{name}.safetensors", metadata={"format": "pt"})
    runs = [(0, 71.25, 70.5), (1, 70.0, 70.75), (2, 72.5, 70.0)]
    entry = {
        "architecture": arch,
        "tag": tag,
        "default": True,
        "description": "a toy of random values",
        "license": "apache-2.0",
        "dataset": {
            "name": "Toys",
            "source": "https://example.org/toys",
            "license": "cc-by-4.0",
            "terms": "credit the toymaker",
        },
        "file": f"{name}.safetensors",
        "sha256": file_sha256(folder / f"{name}.safetensors"),
        "repo_id": None,
        "revision": None,
        "repo_sha256": None,
        "num_classes": len(CLASSES),
        "label_names": list(CLASSES),
        "input_size": list(size),
        "mean": [0.5, 0.45, 0.4],
        "std": [0.25, 0.2, 0.3],
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "training": {"model": arch, "dataset": "makers/toys", "pretrained": False, "epochs": 3, "seed": 0},
        "environment": {"python": "3.11", "torch": "2.15", "device": "CPU, 2 cores"},
        "metrics": {
            "split": "test",
            "images": 400,
            "seed": 0,
            "top1": 71.0,
            "control_top1": 70.5,
            "runs": [{"seed": seed, "ssia": ssia, "vanilla": vanilla} for seed, ssia, vanilla in runs],
        },
        **changes,
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(entry, indent=2) + "\n", encoding="utf-8")
    return read_published_weight(path)
