"""Train a weight and its vanilla control with several seeds, and write the weight's files in hub_configs/.

    python benchmarks/make_weight.py mobilenetv3_small_050_ssia.digits_r32 --runs runs/weights

This reads hub_configs/recipes/NAME.yaml (settings) and NAME.terms.json (description, license, terms of the data), runs
train_hf.py for each method and seed (a second call resumes), and writes hub_configs/NAME.safetensors (float16) and
NAME.json, whose top-1 is measured on the float16 file loaded by timm. The weight of the first seed is published,
whatever the other seeds score.

results/weights/NAME.jsonl records settings, log, metrics and sha256 of every run, controls included. --rivals trains
other methods with the same recipe, for that file only (`accuracy.py report` tabulates them). --dataset names a local
copy of the recipe's data; NAME.terms.json states how it differs from the original.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import tyro
from half_precision import half_precision
from recording import RESULTS, ROOT

from ssia_zoo.data import DataConfig
from ssia_zoo.evaluation.validate import validate
from ssia_zoo.hub import file_sha256
from ssia_zoo.models.weight import read_published_weight
from ssia_zoo.training import TrainConfig
from ssia_zoo.training.arguments import read_config
from ssia_zoo.training.metrics import read_records


@dataclass(frozen=True)
class Arguments:
    """Train a weight and its vanilla control with several seeds, and write the weight's files in hub_configs/."""

    name: tyro.conf.Positional[str]
    """registered name with tag"""
    runs: Path = Path("runs/weights")
    """folder for the runs"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """seeds; the weight of the first one is published"""
    rivals: tuple[str, ...] = ()
    """other methods to train with the same recipe and record"""
    dataset: Path | None = None
    """local folder with the recipe's data; by default the recipe's data set, from the Hub"""


def main(arguments: Arguments) -> None:
    recipe = ROOT / "hub_configs" / "recipes" / f"{arguments.name}.yaml"
    terms = json.loads(recipe.with_suffix(".terms.json").read_text(encoding="utf-8"))
    folders = {
        (method, seed): arguments.runs / arguments.name / f"{method}_seed{seed}"
        for seed in arguments.seeds
        for method in ("ssia", "vanilla", *arguments.rivals)
    }
    for (method, seed), folder in folders.items():
        if not (folder / "model.safetensors").exists():
            flags = ["--config", recipe, "--method", method, "--seed", seed, "--output-dir", folder, "--resume", "auto"]
            flags += ["--dataset", arguments.dataset] if arguments.dataset else []
            subprocess.run([sys.executable, ROOT / "train_hf.py", *map(str, flags)], check=True)
    write_log(arguments, folders)
    write_entry(arguments, terms, read_config(str(recipe)).dataset, folders)


def write_log(arguments: Arguments, folders: dict[tuple[str, int], Path]) -> None:
    path = RESULTS / "weights" / f"{arguments.name}.jsonl"
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for (method, seed), folder in folders.items():
            run = json.loads((folder / "config.json").read_text(encoding="utf-8"))["ssia"]
            about = {"method": method, "seed": seed, "sha256": file_sha256(folder / "model.safetensors")}
            log = read_records(folder / "metrics.jsonl")
            file.write(json.dumps({**about, **run, "log": log}) + "\n")


def write_entry(
    arguments: Arguments, terms: dict[str, Any], dataset: str, folders: dict[tuple[str, int], Path]
) -> None:
    seed = arguments.seeds[0]
    folder = folders["ssia", seed]
    described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    cfg, run = described["pretrained_cfg"], described["ssia"]
    weight = ROOT / "hub_configs" / f"{arguments.name}.safetensors"
    weight.write_bytes(half_precision(folder / "model.safetensors"))

    settings = read_config(str(folder / "train_config.yaml"))
    top1 = {key: described_top1(path) for key, path in folders.items()}
    architecture, tag = arguments.name.split("_ssia.")
    entry = {
        "architecture": architecture,
        "tag": tag,
        **terms,
        "file": weight.name,
        "sha256": file_sha256(weight),
        "repo_id": None,
        "revision": None,
        "repo_sha256": None,
        "num_classes": described["num_classes"],
        "label_names": described["label_names"],
        **{key: cfg[key] for key in ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")},
        "training": {**run["training"], "dataset": dataset, "image_size": cfg["input_size"][1]},
        "environment": run["environment"],
        "metrics": {
            "split": run["evaluated_on"],
            "images": run["evaluated_images"],
            "seed": seed,
            "top1": half_top1(architecture, described["num_classes"], weight, cfg, settings),
            "control_top1": top1["vanilla", seed],
            "runs": [{"seed": s, "ssia": top1["ssia", s], "vanilla": top1["vanilla", s]} for s in arguments.seeds],
        },
    }
    path = weight.with_suffix(".json")
    path.write_text(json.dumps(entry, indent=2) + "\n", encoding="utf-8")
    print(read_published_weight(path).metrics)


def described_top1(folder: Path) -> float:
    described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return round(described["ssia"]["metrics"]["top1"], 2)


def half_top1(arch: str, num_classes: int, weight: Path, cfg: dict[str, Any], settings: TrainConfig) -> float:
    """Return top-1 of the published file, loaded by timm."""
    sources = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
    overlay = {"file": str(weight), **{key: cfg[key] for key in sources}, "num_classes": num_classes}
    model = timm.create_model(arch, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=num_classes)
    data = {field: getattr(settings, field) for field in DataConfig.__dataclass_fields__}
    return round(validate(model, DataConfig(**data))["top1"], 2)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
