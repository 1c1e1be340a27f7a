"""Train a small model with and without SSIA on wrong labels, publish it to a folder, and load it from there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import timm
import torch

from ssia_zoo.data import digits
from ssia_zoo.data.preprocessing import model_preprocessing
from ssia_zoo.errors import ConfigError, SSIAZooError
from ssia_zoo.figures import require_matplotlib
from ssia_zoo.hub import publish_to_folder
from ssia_zoo.inference.attention import draw_attention, stage_attention
from ssia_zoo.training import TrainConfig, TrainResult, train
from ssia_zoo.training.metrics import draw_curves, read_records

SETTINGS: dict[str, Any] = {
    "model": "resnet18",
    "model_kwargs": {"channels": [16, 32, 64, 128]},
    "image_size": 16,
    "epochs": 16,
    "batch_size": 64,
    "lr": 3e-3,
    "crop_padding": 1,
    "hflip": 0.0,
    "cache_images": True,
    "channels_last": True,
    "workers": 0,
}
METHODS: dict[str, dict[str, Any]] = {
    "vanilla": {"method": "vanilla"},
    "ssia": {
        "method": "ssia",
        "ssia": {
            "labels": 1.0,
            "handover": True,
            "supervisor": "memory",
            "top": True,
            "share": 0.8,
            "temperature": 1.0,
            "weight": 2.0,
        },
    },
}
RECORDED = (
    "10 recorded seeds with 16 epochs: SSIA minus vanilla +1.22 points (95 % interval +0.36 to +2.09); "
    "see benchmarks/research.md, entry 20"
)
_SEED = 0
_CLASSES = 10
_DRAWN_IMAGES = 5
_SIGNIFICANT = 0.05


def run_demo(folder: Path, epochs: int | None = None) -> Path:
    """Train a small model twice on digits with wrong labels, publish it to a folder, load it, and draw figures.

    Args:
        folder: Folder in which a new numbered folder is created.
        epochs: Passes over the data; 16 if None.

    Returns:
        The numbered folder, with digits-wrong-labels/ (the data), vanilla/ and ssia/ (the runs), hub/ (laid out as a
        Hub repository) and two figures.

    Raises:
        SSIAZooError: If the folder cannot be written or training fails.
    """
    if epochs is not None and epochs < 1:
        raise ConfigError(f"`epochs` is {epochs}; expected at least 1")
    require_matplotlib()
    root = _new_folder(folder)
    print(f"SSIA Zoo demo, writing to {root}")
    splits, data = digits(), root / "digits-wrong-labels"
    wrong = write_wrong_labels(data, splits["train"], splits["test"], _SEED)
    print(
        f"data: scikit-learn's digits; {wrong} of {splits['train'].num_rows} training images have a wrong label, drawn "
        f"at random with seed {_SEED}; all {splits['test'].num_rows} test images have the right one\n"
        "ssia: the lower layers learn the labels and, more and more, the average of the network's earlier predictions"
    )
    results = _train(root, data, epochs or SETTINGS["epochs"])
    published = publish_to_folder(results["ssia"].folder, root / "hub")
    models = {
        "vanilla": timm.create_model(f"local-dir:{results['vanilla'].folder}", pretrained=True),
        "ssia": timm.create_model(f"local-dir:{published}", pretrained=True),
    }
    draw_curves({name: read_records(r.folder / "metrics.jsonl") for name, r in results.items()}, root / "curves.png")
    images = _images(models["ssia"], splits["test"])
    _draw_attention(splits["test"], images, models, root / "attention.png")
    right = {name: _right(model, images, splits["test"]["label"]) for name, model in models.items()}
    print(
        f"{_table(results, models)}\n\n{verdict(right['vanilla'], right['ssia'])}\n{RECORDED}\n\n"
        f"loaded from {published} by timm.create_model: top-1 {100 * right['ssia'].mean():.2f} %\n"
        f"figures: {root / 'curves.png'}, {root / 'attention.png'}"
    )
    return root


def write_wrong_labels(folder: Path, train: datasets.Dataset, test: datasets.Dataset, seed: int) -> int:
    """Write digits as parquet files, a third of the training images with the label of another class.

    Args:
        folder: Folder to create.
        train: Images to train on, with the right labels.
        test: Images to evaluate on; their labels stay.
        seed: Of the choice of images and of their wrong labels, which is the same on every machine.

    Returns:
        The number of wrong labels.
    """
    random = np.random.RandomState(seed)  # NumPy guarantees that its numbers never change
    labels = np.asarray(train["label"])
    rows = random.permutation(len(labels))[: len(labels) // 3]
    labels[rows] = (labels[rows] + random.randint(1, _CLASSES, len(rows))) % _CLASSES
    changed = train.remove_columns("label").add_column("label", labels.tolist(), feature=train.features["label"])
    folder.mkdir(parents=True)
    changed.to_parquet(str(folder / "train.parquet"))
    test.to_parquet(str(folder / "test.parquet"))
    return len(rows)


def verdict(vanilla: npt.NDArray[np.bool_], ssia: npt.NDArray[np.bool_]) -> str:
    """State which of two models classifies more images right, and whether that is more than noise.

    Args:
        vanilla: Whether the control is right, for each test image.
        ssia: Whether SSIA is, for the same images.
    """
    won, lost, images = int((ssia & ~vanilla).sum()), int((vanilla & ~ssia).sum()), len(ssia)
    most = max(won, lost)
    tail = sum(math.comb(won + lost, k) for k in range(most, won + lost + 1)) / 2 ** (won + lost)
    p, points = min(1.0, 2 * tail), abs(won - lost) / images * 100
    if won == lost:
        position = "level with vanilla"
    else:
        position = f"{'ahead of' if won > lost else 'behind'} vanilla by {points:.2f} points"
    noise = "" if p < _SIGNIFICANT else ": within noise, no difference shown"
    return (
        f"this run: SSIA is {position} on {images} test images ({won} that only SSIA classifies right, {lost} "
        f"that only vanilla does; sign test, p = {p:.2g}){noise}"
    )


def _new_folder(folder: Path) -> Path:
    names: Iterator[Path] = (folder / f"demo-{number:03d}" for number in count(1))
    for path in names:
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            if folder.is_file():
                raise SSIAZooError(f"`output_dir` is {folder}, which is a file; expected a folder") from None
            continue
        except OSError as error:
            raise SSIAZooError(
                f"`output_dir` is {folder}: cannot be written ({error.strerror}); choose another"
            ) from error
        return path
    raise AssertionError("unreachable: count() does not end")


def _train(root: Path, data: Path, epochs: int) -> dict[str, TrainResult]:
    common = {**SETTINGS, "epochs": epochs, "seed": _SEED, "dataset": str(data), "val_interval": 2}
    return {n: train(TrainConfig(**common, **method, output_dir=str(root / n))) for n, method in METHODS.items()}


def _images(model: torch.nn.Module, rows: datasets.Dataset) -> torch.Tensor:
    transform = model_preprocessing(model).transform()
    return torch.stack([transform(image.convert("RGB")) for image in rows["image"]])


@torch.inference_mode()
def _right(model: torch.nn.Module, images: torch.Tensor, labels: list[int]) -> npt.NDArray[np.bool_]:
    right: npt.NDArray[np.bool_] = (model.eval()(images).argmax(dim=1) == torch.tensor(labels)).numpy()
    return right


def _draw_attention(
    rows: datasets.Dataset, images: torch.Tensor, models: dict[str, torch.nn.Module], path: Path
) -> None:
    shown = rows.select(range(_DRAWN_IMAGES))
    maps = {name: stage_attention(model, images[:_DRAWN_IMAGES]) for name, model in models.items()}
    draw_attention(list(shown["image"]), maps, [f"digit {label}" for label in shown["label"]], path)


def _table(results: dict[str, TrainResult], models: dict[str, torch.nn.Module]) -> str:
    lines = ["", f"{'':10}{'top-1, %':>10}{'parameters':>13}{'time, s':>10}"]
    for name, result in results.items():
        parameters = sum(p.numel() for p in models[name].parameters())
        lines.append(f"{name:10}{result.metrics['top1']:>10.2f}{parameters:>13,}{result.seconds:>10.0f}")
    return "\n".join(lines)
