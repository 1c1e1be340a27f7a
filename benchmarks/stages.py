"""Analyze the stages of a network trained with SSIA and of its control: attention maps, linear probes, agreement.

    python benchmarks/stages.py run runs/weights/resnet50_ssia.c10_r32    # measure finished runs
    python benchmarks/stages.py report                                   # draw plots and write the table

The folder contains ssia_seedN and vanilla_seedN, and dsn_seedN if it was trained, as make_weight.py writes them, with
the checkpoints kept by --keep-checkpoints or only the final weights. At every step for which all have weights, a linear
probe of each stage (scikit-learn's logistic regression on standardized features averaged over positions, fitted on
training images without augmentation) is evaluated on images of the run's evaluation split. Agreement is the share of
these images for which the stage's probe and the network predict the same class.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import timm
import torch
import tyro
from matplotlib.figure import Figure
from recording import BENCHMARKS, METHODS, RESULTS, Record, append_record, read_results, replace_table
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ssia_zoo.data import ImageData, eval_loader, load_image_data
from ssia_zoo.inference.attention import draw_attention, stage_attention
from ssia_zoo.models.features import TimmModel, forward_stages, stage_indices
from ssia_zoo.training import TrainConfig
from ssia_zoo.training.arguments import read_config
from ssia_zoo.training.checkpoint import list_checkpoints
from ssia_zoo.training.metrics import read_records

RECORDS = RESULTS / "stages.jsonl"
IMAGES, REPORT = BENCHMARKS / "images", BENCHMARKS / "research.md"
PICTURED = 4  # images drawn with their attention maps


@dataclass(frozen=True)
class Run:
    """Analyze finished runs at every step for which all methods have weights."""

    runs: tyro.conf.Positional[Path]
    """folder with ssia_seedN, vanilla_seedN and, if trained, dsn_seedN"""
    images: int = 2000
    """training images to fit each probe, and evaluation images to evaluate it"""


def run(arguments: Run) -> None:
    """Measure and record what is not recorded yet; draw the attention maps of the first seed."""
    known = {(r["weights"], r["method"], r["seed"], r["step"]) for r in read_results(RECORDS)}
    seeds = sorted(int(path.name.removeprefix("ssia_seed")) for path in arguments.runs.glob("ssia_seed*"))
    for seed in seeds:
        folders = {method: arguments.runs / f"{method}_seed{seed}" for method in (*METHODS, "dsn")}
        folders = {method: folder for method, folder in folders.items() if method in METHODS or folder.is_dir()}
        weights = {method: _weights(folder) for method, folder in folders.items()}
        steps = sorted(set.intersection(*map(set, weights.values())))
        settings = read_config(str(folders["ssia"] / "train_config.yaml"))
        settings = replace(settings, max_train_images=arguments.images, max_eval_images=arguments.images)
        data = load_image_data(settings)
        drawn: dict[str, Any] = {}
        for step in steps:
            for method in folders:
                model = _student(weights[method][step], settings, len(data.label_names))
                if step in (steps[0], steps[-1]):
                    images, _, _ = _pictured(model, data, settings)
                    drawn[f"{method}, step {step}"] = stage_attention(model, images)
                key = (arguments.runs.name, method, seed, step)
                if key not in known:
                    about = dict(zip(("weights", "method", "seed", "step"), key, strict=True))
                    append_record(RECORDS, {**about, **measure(model, data, settings)})
                    print(*key, flush=True)
        if seed == seeds[0]:
            _, pictures, titles = _pictured(model, data, settings)
            draw_attention(pictures, drawn, titles, IMAGES / f"stages_attention_{arguments.runs.name}.png")


def _weights(folder: Path) -> dict[int, Path]:
    """Return the weight files of a run by step: those of its checkpoints and the final one."""
    checkpoints = list_checkpoints(folder / "checkpoints")
    found = {int(path.name.removeprefix("step_")): path / "model.safetensors" for path in checkpoints}
    return {**found, int(read_records(folder / "metrics.jsonl")[-1]["step"]): folder / "model.safetensors"}


def _student(weights: Path, settings: TrainConfig, classes: int) -> TimmModel:
    tensors = load_file(weights)
    model = timm.create_model(settings.model, num_classes=classes, **settings.model_kwargs).eval()
    model.load_state_dict(
        {name.removeprefix("student."): t for name, t in tensors.items() if "projection." not in name}
    )
    return model


def measure(model: TimmModel, data: ImageData, settings: TrainConfig) -> Record:
    """Return accuracy of a linear probe on each stage, and its agreement with the network."""
    train_features, train_labels, _ = _pooled(model, replace(data, eval=data.train), settings)
    features, labels, predicted = _pooled(model, data, settings)
    record: Record = {
        "split": data.eval_name,
        "images": len(labels),
        "probe_images": len(train_labels),
        "probe": [],
        "agreement": [],
        "network": round(100 * float((predicted == labels).mean()), 2),
    }
    for stage, values in enumerate(features):
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
        probe.fit(train_features[stage], train_labels)
        probed = probe.predict(values)
        record["probe"].append(round(100 * float((probed == labels).mean()), 2))
        record["agreement"].append(round(100 * float((probed == predicted).mean()), 2))
    return record


@torch.inference_mode()
def _pooled(
    model: TimmModel, data: ImageData, settings: TrainConfig
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    indices = stage_indices(model)
    stages: list[list[np.ndarray]] = [[] for _ in indices]
    labels, predicted = [], []
    for images, truth in eval_loader(data, settings, **_statistics(model)):
        logits, maps = forward_stages(model, images, indices)
        for stage, feature in zip(stages, maps, strict=True):
            stage.append(feature.mean(dim=(2, 3)).numpy())
        labels.append(truth.numpy())
        predicted.append(logits.argmax(dim=1).numpy())
    return [np.concatenate(stage) for stage in stages], np.concatenate(labels), np.concatenate(predicted)


def _statistics(model: TimmModel) -> dict[str, Any]:
    return {name: model.pretrained_cfg[name] for name in ("mean", "std")}


def _pictured(
    model: TimmModel, data: ImageData, settings: TrainConfig
) -> tuple[torch.Tensor, list[PIL.Image.Image], list[str]]:
    """Return the first evaluation images as model input and as pictures, with the names of their classes."""
    rows = replace(data, eval=data.eval.select(range(PICTURED)))
    images, labels = next(iter(eval_loader(rows, replace(settings, batch_size=PICTURED), **_statistics(model))))
    return images, rows.eval[data.image_column][:], [data.label_names[label] for label in labels]


@dataclass(frozen=True)
class Report:
    """Draw plots and write the table of the recorded results into benchmarks/research.md."""


def report() -> None:
    """Plot the first seed of each pair over training; write a table of the last step of every seed."""
    records = read_results(RECORDS)
    names = list(dict.fromkeys(r["weights"] for r in records))
    for name in names:
        if len({r["step"] for r in records if r["weights"] == name}) > 1:
            _draw([r for r in records if r["weights"] == name], name)
    replace_table(REPORT, "stages", _table(records, names))


def _draw(records: list[Record], name: str) -> None:
    seed = records[0]["seed"]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, what in zip(figure.subplots(1, 2), ("probe", "agreement"), strict=True):
        for method, style in zip(METHODS, ("--", "-"), strict=True):
            chosen = [r for r in records if r["method"] == method and r["seed"] == seed]
            for stage in range(len(chosen[0][what])):
                values = [r[what][stage] for r in chosen]
                label = f"{method}, stage {stage + 1}"
                axes.plot([r["step"] for r in chosen], values, style, color=f"C{stage}", marker=".", label=label)
        axes.set(
            xlabel="step", ylabel="%", title={"probe": "linear probe, top-1"}.get(what, "agreement with the network")
        )
        axes.grid(alpha=0.3)
    axes.legend(fontsize=7, ncols=2)
    figure.savefig(IMAGES / f"stages_{name}.png", dpi=110)


def _table(records: list[Record], names: list[str]) -> list[str]:
    lines = ["| weight | method | seed | network | probe, stage by stage | agreement |", "|---|---|---|---|---|---|"]
    for name in names:
        last = max(r["step"] for r in records if r["weights"] == name)
        for r in (r for r in records if r["weights"] == name and r["step"] == last):
            stages = (" / ".join(f"{value:.1f}" for value in r[what]) for what in ("probe", "agreement"))
            lines.append(f"| `{name}` | {r['method']} | {r['seed']} | {r['network']:.1f} | {' | '.join(stages)} |")
    return lines


if __name__ == "__main__":
    arguments = tyro.cli(Run | Report, description=__doc__)  # type: ignore[arg-type]  # tyro takes unions
    run(arguments) if isinstance(arguments, Run) else report()
