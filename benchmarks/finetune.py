"""Transfer pretrained weights and their controls to other data: linear probe and fine-tuning of the whole network.

    python benchmarks/finetune.py run runs/weights/resnet50_ssia.c10_r32 --dataset digits
    python benchmarks/finetune.py run benchmarks/plans/PLAN.yaml --models runs/models --dataset digits --how probe
    python benchmarks/finetune.py report

The weights are those of a folder that make_weight.py wrote, ssia_seedN and vanilla_seedN, trained with the same
settings; or those of a plan with one network, kept by `accuracy.py run PLAN --models FOLDER`, as far as they are there.
Each is fine-tuned with every seed, without the SSIA loss. The seed determines data order, augmentation and the initial
weights of the new classifier; for the probe (scikit-learn's logistic regression on the standardized features before the
classifier) it selects the training images. Both are evaluated on the official test split, once, after the last step.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np
import timm
import torch
import tyro
from recording import BENCHMARKS, METHODS, RESULTS, Record, append_record, read_results, replace_table
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ssia_zoo.arena.plan import read_plan
from ssia_zoo.arena.tables import format_interval, paired
from ssia_zoo.arena.tuning import schedule
from ssia_zoo.data import ImageData, eval_loader, load_image_data
from ssia_zoo.data.preprocessing import model_preprocessing
from ssia_zoo.training import TrainConfig, train

RECORDS = RESULTS / "finetune.jsonl"
REPORT = BENCHMARKS / "accuracy.md"
KEY = ("weights", "method", "pretraining_seed", "dataset", "seed", "how")


@dataclass(frozen=True)
class Run:
    """Fine-tune the weights that have no result yet."""

    weights: tyro.conf.Positional[Path]
    """folder with ssia_seedN and vanilla_seedN, or a plan"""
    dataset: str
    """data set to fine-tune on"""
    models: Path | None = None
    """for a plan: the folder where `accuracy.py run` kept its models"""
    how: tuple[Literal["probe", "whole"], ...] = ("probe", "whole")
    """a linear probe on frozen features, the whole network, or both"""
    label_column: str | None = None
    """column of the labels, if the data set has several"""
    eval_split: str | None = None
    """split to evaluate on, if it is not the one that training finds"""
    image_size: int = 32
    """height and width in pixels"""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """seeds of fine-tuning"""
    epochs: int = 10
    """epochs of fine-tuning the whole network"""
    lr: float = 5e-4
    """peak learning rate of fine-tuning the whole network (AdamW)"""
    max_train_images: int | None = None
    """training images for fine-tuning the whole network"""
    probe_images: int = 1000
    """training images for the linear probe"""
    work: Path = Path("runs/finetune")
    """folder for unfinished runs"""


def run(arguments: Run) -> None:
    """Fine-tune and record, seed by seed."""
    known = {tuple(record[name] for name in KEY) for record in read_results(RECORDS)}
    scores = {"probe": probe, "whole": fine_tune}
    dataset = Path(arguments.dataset).name if Path(arguments.dataset).exists() else arguments.dataset
    for seed in arguments.seeds:
        for (method, pretraining_seed), folder in _pretrained(arguments).items():
            settings = _settings(arguments, folder, seed)
            for how in arguments.how:
                values = (_name(arguments), method, pretraining_seed, dataset, seed, how)
                if values in known:
                    continue
                record = {**dict(zip(KEY, values, strict=True)), **scores[how](settings, arguments)}
                about = {
                    **settings.decisive_settings(),
                    "dataset": dataset,
                    "model": f"{method}_seed{pretraining_seed}",
                }
                append_record(RECORDS, {**record, "settings": about})
                print(*values, record["top1"], flush=True)


def _pretrained(arguments: Run) -> dict[tuple[str, int], Path]:
    """Return the folders of the pretrained weights by method and seed, seed by seed."""
    if arguments.models is None:
        seeds = sorted(int(path.name.removeprefix("ssia_seed")) for path in arguments.weights.glob("ssia_seed*"))
        return {(m, seed): arguments.weights / f"{m}_seed{seed}" for seed in seeds for m in METHODS}
    plan = read_plan(arguments.weights)
    if len(list(plan.combinations())) != 1:
        raise SystemExit(f"{arguments.weights} has several networks or data sets; expected one of each")
    kept = {(cell.method, cell.seed): arguments.models / cell.key for cell in schedule(plan, {}).cells}
    found = {names: folder for names, folder in kept.items() if folder.is_dir()}
    print(f"{len(found)} of the {len(kept)} models of {arguments.weights} are in {arguments.models}", flush=True)
    return found


def _name(arguments: Run) -> str:
    return arguments.weights.name if arguments.models is None else arguments.weights.stem


def _settings(arguments: Run, folder: Path, seed: int) -> TrainConfig:
    return TrainConfig(
        model=f"local-dir:{folder}",
        pretrained=True,
        method="vanilla",
        dataset=arguments.dataset,
        label_column=arguments.label_column,
        eval_split=arguments.eval_split,
        image_size=arguments.image_size,
        max_train_images=arguments.max_train_images,
        crop_padding=arguments.image_size // 8,
        hflip=0.0,
        epochs=arguments.epochs,
        lr=arguments.lr,
        batch_size=64,
        channels_last=True,
        workers=0,
        val_interval=0,
        seed=seed,
        resume="auto",
        output_dir=str(arguments.work / f"{_name(arguments)}_{folder.name}_{seed}"),
    )


def fine_tune(settings: TrainConfig, arguments: Run) -> Record:
    """Fine-tune the whole network."""
    result = train(settings)
    shutil.rmtree(result.folder)
    return {"top1": round(result.metrics["top1"], 2)}


def probe(settings: TrainConfig, arguments: Run) -> Record:
    """Fit a linear classifier on the frozen features of some training images."""
    data = load_image_data(replace(settings, max_train_images=None))
    chosen = np.random.RandomState(settings.seed).permutation(len(data.train))[: arguments.probe_images]
    model = timm.create_model(settings.model, pretrained=True, num_classes=0).eval()
    features, labels = _features(model, replace(data, eval=data.train.select(np.sort(chosen))), settings)
    tested, truth = _features(model, data, settings)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(features, labels)
    return {"top1": round(100 * float((classifier.predict(tested) == truth).mean()), 2), "images": len(labels)}


@torch.inference_mode()
def _features(model: Any, data: ImageData, settings: TrainConfig) -> tuple[np.ndarray, np.ndarray]:
    own = model_preprocessing(model, settings)
    settings = own.applied_to(settings)
    found = [
        (model(images).numpy(), labels.numpy())
        for images, labels in eval_loader(data, settings, mean=own.mean, std=own.std)
    ]
    features, labels = zip(*found, strict=True)
    return np.concatenate(features), np.concatenate(labels)


@dataclass(frozen=True)
class Report:
    """Write the table into benchmarks/accuracy.md."""


def _pairs(
    group: dict[str, dict[tuple[int, int], Record]], method: str
) -> tuple[int, str, dict[str, dict[int, dict[str, float]]]]:
    """Return the number of pairs of weights, that of seeds of fine-tuning for each, and the scores to compare.

    These are of one pair by seed, and of several pairs by pretraining seed, averaged over the seeds of fine-tuning: the
    runs of one weight are not independent.
    """
    common = sorted(group[method].keys() & group.get("vanilla", {}).keys())
    each: dict[int, list[int]] = defaultdict(list)
    for pair, seed in common:
        each[pair].append(seed)
    counts = sorted({len(found) for found in each.values()})
    scores: dict[str, dict[int, dict[str, float]]] = {}
    for name in (method, "vanilla"):
        top1 = {pair: [group[name][pair, seed]["top1"] for seed in found] for pair, found in each.items()}
        if len(each) == 1:
            (values,) = top1.values()
            scores[name] = {seed: {"top1": value} for seed, value in enumerate(values)}
        else:
            scores[name] = {pair: {"top1": fmean(values)} for pair, values in top1.items()}
    return len(each), " to ".join(map(str, counts)), scores


def report() -> None:
    """Write a row for each weight, data set, kind of transfer and method, paired over pretraining seeds or seeds."""
    groups: dict[tuple[str, ...], dict[str, dict[tuple[int, int], Record]]] = defaultdict(lambda: defaultdict(dict))
    for r in read_results(RECORDS):
        groups[r["weights"], r["dataset"], r["how"]][r["method"]][r["pretraining_seed"], r["seed"]] = r
    lines = [
        "| from | to | what is trained | pretrained with | top-1 | control "
        "| difference, paired | 95 % interval | pairs × seeds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (weights, dataset, how), group in groups.items():
        for method in group:
            if method == "vanilla":
                continue
            pairs, seeds, averaged = _pairs(group, method)
            if (c := paired(averaged, method)) is None:  # the control has not been run yet
                continue
            lines.append(
                f"| `{weights}` | {dataset} | {'linear probe' if how == 'probe' else 'the whole network'} "
                f"| {'SSIA' if method == 'ssia' else method} | {c.ssia_mean:.2f} | {c.vanilla_mean:.2f} "
                f"| {c.difference:+.2f} | {format_interval(c.interval)} | {pairs} × {seeds} |"
            )
    replace_table(REPORT, "finetune", lines)


if __name__ == "__main__":
    arguments = tyro.cli(Run | Report, description=__doc__)  # type: ignore[arg-type]  # tyro takes unions
    run(arguments) if isinstance(arguments, Run) else report()
