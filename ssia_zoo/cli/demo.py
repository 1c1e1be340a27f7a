"""The main job in small: train with SSIA and without, publish, and create the model from what was published."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import timm
import torch

from ssia_zoo.data import DataConfig, digits
from ssia_zoo.data.preprocessing import model_preprocessing
from ssia_zoo.errors import ConfigError, SSIAZooError
from ssia_zoo.evaluation.validate import validate
from ssia_zoo.figures import require_matplotlib
from ssia_zoo.hub import publish_to_folder
from ssia_zoo.inference.attention import draw_attention, stage_attention
from ssia_zoo.training import TrainConfig, TrainResult, train
from ssia_zoo.training.metrics import draw_curves, read_records

_SETTINGS = TrainConfig(
    model="mobilenetv3_small_050",
    dataset="digits",
    image_size=64,
    epochs=12,
    batch_size=32,
    lr=3e-3,
    scale=(0.7, 1.0),
    hflip=0.0,
    smoothing=0.0,
    workers=1,
)
_PICTURED = 5


def run_demo(folder: Path, epochs: int | None = None) -> Path:
    """Train a small backbone twice on scikit-learn's digits, publish into a folder, load from there, draw pictures.

    Args:
        folder: Where a new numbered folder is made.
        epochs: Passes over the data; the demo's own if None.

    Returns:
        The numbered folder: vanilla/ and ssia/ (the runs), hub/ (what a Hub repository would hold), two pictures.

    Raises:
        SSIAZooError: If the folder cannot be written or training fails.
    """
    if epochs is not None and epochs < 1:
        raise ConfigError(f"--epochs is {epochs}; expected at least 1")
    require_matplotlib()
    root = _new_folder(folder)
    print(f"SSIA Zoo demo, writing to {root}")
    results = {}
    for method in ("vanilla", "ssia"):
        settings = {**vars(_SETTINGS), "method": method, "output_dir": str(root / method)}
        if epochs is not None:
            settings |= {"epochs": epochs}
        results[method] = train(TrainConfig(**settings))
    published = publish_to_folder(results["ssia"].folder, root / "hub")
    model = timm.create_model(f"local-dir:{published}", pretrained=True)
    vanilla = timm.create_model(f"local-dir:{results['vanilla'].folder}", pretrained=True)
    data = DataConfig(dataset="digits", image_size=64, workers=0)
    recomputed = validate(model, data)["top1"]
    draw_curves({m: read_records(r.folder / "metrics.jsonl") for m, r in results.items()}, root / "curves.png")
    _draw_attention(data, {"vanilla": vanilla, "SSIA": model}, root / "attention.png")
    print(_table(results, {"vanilla": vanilla, "ssia": model}))
    print(
        f"\ncreated from {published} by timm.create_model: top-1 {recomputed:.2f} % on the 360 test images\n"
        "Digits show that the parts work together; they are far too easy to show a gain, and this is one seed.\n"
        f"pictures: {root / 'curves.png'}, {root / 'attention.png'}"
    )
    return root


def _new_folder(folder: Path) -> Path:
    names: Iterator[Path] = (folder / f"demo-{number:03d}" for number in count(1))
    for path in names:
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            if folder.is_file():
                raise SSIAZooError(f"--output-dir {folder}: is a file; expected a folder") from None
            continue
        except OSError as error:
            raise SSIAZooError(
                f"--output-dir {folder}: cannot be written ({error.strerror}); choose another"
            ) from error
        return path
    raise AssertionError("unreachable: count() does not end")


def _draw_attention(data: DataConfig, models: dict[str, torch.nn.Module], path: Path) -> None:
    test = digits()["test"].select(range(_PICTURED))
    transform = model_preprocessing(next(iter(models.values())), data).transform()
    images = torch.stack([transform(image.convert("RGB")) for image in test["image"]])
    maps = {name: stage_attention(model, images) for name, model in models.items()}
    draw_attention(list(test["image"]), maps, [f"digit {label}" for label in test["label"]], path)


def _table(results: dict[str, TrainResult], models: dict[str, torch.nn.Module]) -> str:
    lines = ["", f"{'':10}{'top-1, %':>10}{'parameters':>13}{'time, s':>10}"]
    for name, result in results.items():
        parameters = sum(p.numel() for p in models[name].parameters())
        lines.append(f"{name:10}{result.metrics['top1']:>10.2f}{parameters:>13,}{result.seconds:>10.0f}")
    return "\n".join(lines)
