"""What SSIA does inside a network: where its stages look, what a linear probe reads from each, and how far they agree.

    python benchmarks/stages.py run --dataset DATA/cifar10 --model resnet18 --epochs 20    # trains, then measures
    python benchmarks/stages.py report                                                   # draws and writes the table

Trains each method with the same seed and keeps a checkpoint of every epoch. At some of them, a linear probe
(scikit-learn's logistic regression on the standardised, position-averaged features of a stage, fitted on training
images without augmentation) is scored on images that neither network nor probe was trained on; agreement is the share
of those images to which the stage's probe and the network itself give the same class.
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
from _recording import Record, append_record, read_results, replace_part
from matplotlib.figure import Figure
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ssia_zoo.attention import draw_attention, stage_attention
from ssia_zoo.data import DataConfig, ImageData, eval_loader, load_image_data
from ssia_zoo.features import TimmModel, forward_stages, stage_indices
from ssia_zoo.training import TrainConfig, train
from ssia_zoo.training.checkpoint import list_checkpoints

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "stages.jsonl"
IMAGES, DOCS = ROOT / "docs" / "images", ROOT / "docs" / "research.md"
START, END = "<!-- stages: begin -->", "<!-- stages: end -->"
METHODS = ("vanilla", "ssia")
PICTURED = 4
STATISTICS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@dataclass(frozen=True)
class Run:
    """Train with and without SSIA, and look inside at several moments."""

    dataset: str
    """folder of parquet files, or a Hub id"""
    model: str = "resnet18"
    """timm architecture"""
    image_size: int = 32
    """height and width, pixels"""
    epochs: int = 20
    """passes over the training images"""
    images: int = 5000
    """training images; as many again of the training split are held out to score probes on"""
    lr: float = 2e-3
    """peak learning rate of adamw"""
    seeds: tuple[int, ...] = (0,)
    """the first one is drawn over training; the others are measured at the end alone"""
    work: Path = Path("runs/stages")
    """where the runs are kept while they are needed"""


def run(arguments: Run) -> None:
    """Train, measure, record, draw where the stages look; what is recorded already is not measured again."""
    known = {(r["model"], r["method"], r["seed"], r["epoch"]) for r in read_results(RESULTS)}
    settings = TrainConfig(
        dataset=arguments.dataset,
        model=arguments.model,
        image_size=arguments.image_size,
        crop_padding=arguments.image_size // 8,
        holdout=0.1,
        max_train_images=arguments.images,
        max_eval_images=arguments.images,
        batch_size=64,
        epochs=arguments.epochs,
        lr=arguments.lr,
        warmup_epochs=2.0,
        workers=0,
        val_interval=0,
        keep_checkpoints=arguments.epochs,
        resume="auto",
    )
    data = load_image_data(settings)
    drawn: dict[str, Any] = {}
    for seed in arguments.seeds:
        for method in METHODS:
            folder = arguments.work / f"{arguments.model}_{method}_{seed}"
            train(replace(settings, method=method, seed=seed, output_dir=str(folder)))
            checkpoints = list_checkpoints(folder / "checkpoints")
            first = seed == arguments.seeds[0]
            for epoch in _moments(len(checkpoints)) if first else [len(checkpoints)]:
                model = _student(checkpoints[epoch - 1], settings, len(data.label_names))
                if first and epoch in (1, len(checkpoints)):
                    drawn[f"{method}, epoch {epoch}"] = stage_attention(model, _pictured(data, settings)[0])
                about = {"model": arguments.model, "method": method, "seed": seed, "epoch": epoch}
                if tuple(about.values()) not in known:
                    append_record(
                        RESULTS, {**about, **measure(model, data, settings), "settings": settings.experiment()}
                    )
    _, pictures, titles = _pictured(data, settings)
    draw_attention(pictures, drawn, titles, IMAGES / f"stages_attention_{arguments.model}.png")


def _moments(epochs: int) -> list[int]:
    """Epochs to look at, more of them early, when most changes."""
    return sorted({max(1, round(epochs * share)) for share in (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)})


def _student(checkpoint: Path, settings: TrainConfig, classes: int) -> TimmModel:
    tensors = load_file(checkpoint / "model.safetensors")
    model = timm.create_model(settings.model, num_classes=classes).eval()
    model.load_state_dict(
        {name.removeprefix("student."): t for name, t in tensors.items() if "projection." not in name}
    )
    return model


def measure(model: TimmModel, data: ImageData, settings: TrainConfig) -> Record:
    """Score a linear probe on each stage, and how often it says what the network says."""
    train_features, train_labels, _ = _pooled(model, replace_eval(data, data.train), settings)
    features, labels, said = _pooled(model, data, settings)
    record: Record = {"probe": [], "agreement": [], "network": round(100 * float((said == labels).mean()), 2)}
    for stage, values in enumerate(features):
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
        probe.fit(train_features[stage], train_labels)
        guessed = probe.predict(values)
        record["probe"].append(round(100 * float((guessed == labels).mean()), 2))
        record["agreement"].append(round(100 * float((guessed == said).mean()), 2))
    return record


def replace_eval(data: ImageData, rows: Any) -> ImageData:
    """The same data with other images to go through without augmentation."""
    return replace(data, eval=rows)


@torch.inference_mode()
def _pooled(model: TimmModel, data: ImageData, settings: DataConfig) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    indices = stage_indices(model)
    stages: list[list[np.ndarray]] = [[] for _ in indices]
    labels, said = [], []
    for images, truth in eval_loader(data, settings, **STATISTICS):
        logits, maps = forward_stages(model, images, indices)
        for stage, feature in zip(stages, maps, strict=True):
            stage.append(feature.mean(dim=(2, 3)).numpy())
        labels.append(truth.numpy())
        said.append(logits.argmax(dim=1).numpy())
    return [np.concatenate(stage) for stage in stages], np.concatenate(labels), np.concatenate(said)


def _pictured(data: ImageData, settings: TrainConfig) -> tuple[torch.Tensor, list[PIL.Image.Image], list[str]]:
    """The first images of the evaluation: as the model sees them, as people do, and what they show."""
    rows = replace_eval(data, data.eval.select(range(PICTURED)))
    images, labels = next(iter(eval_loader(rows, replace(settings, batch_size=PICTURED), **STATISTICS)))
    return images, rows.eval[data.image_column][:], [data.label_names[label] for label in labels]


@dataclass(frozen=True)
class Report:
    """Draw what is recorded, and write the table into docs/research.md."""


def report(arguments: Report) -> None:
    """Curves over training of the seeds that have them, and a table of the last epoch of every seed."""
    records = read_results(RESULTS)
    models = list(dict.fromkeys(r["model"] for r in records))
    for model in models:
        _draw([r for r in records if r["model"] == model], model)
    replace_part(DOCS, START, END, _table(records, models))


def _draw(records: list[Record], model: str) -> None:
    seed = records[0]["seed"]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, what in zip(figure.subplots(1, 2), ("probe", "agreement"), strict=True):
        for method, style in zip(METHODS, ("--", "-"), strict=True):
            chosen = [r for r in records if r["method"] == method and r["seed"] == seed]
            for stage in range(len(chosen[0][what])):
                values = [r[what][stage] for r in chosen]
                label = f"{method}, stage {stage + 1}"
                axes.plot([r["epoch"] for r in chosen], values, style, color=f"C{stage}", marker=".", label=label)
        axes.set(
            xlabel="epoch", ylabel="%", title={"probe": "linear probe, top-1"}.get(what, "agreement with the network")
        )
        axes.grid(alpha=0.3)
    axes.legend(fontsize=7, ncols=2)
    figure.savefig(IMAGES / f"stages_{model}.png", dpi=110)


def _table(records: list[Record], models: list[str]) -> list[str]:
    lines = ["| model | method | seed | network | probe, stage by stage | agreement |", "|---|---|---|---|---|---|"]
    for model in models:
        last = max(r["epoch"] for r in records if r["model"] == model)
        for r in (r for r in records if r["model"] == model and r["epoch"] == last):
            stages = (" / ".join(f"{value:.1f}" for value in r[what]) for what in ("probe", "agreement"))
            lines.append(f"| `{model}` | {r['method']} | {r['seed']} | {r['network']:.1f} | {' | '.join(stages)} |")
    return lines


if __name__ == "__main__":
    arguments = tyro.cli(Run | Report)  # type: ignore[arg-type]  # tyro takes unions
    run(arguments) if isinstance(arguments, Run) else report(arguments)
