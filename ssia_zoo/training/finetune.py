"""Fine-tune a pretrained model on photos: a recipe for small data, epochs that fit a time, and a report at the end."""

from __future__ import annotations

import argparse
import logging
import os
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from torch.nn.modules.batchnorm import _BatchNorm

from ssia_zoo.data import DataConfig, load_image_data, split_names
from ssia_zoo.data.splits import names_test_split, split_of_name
from ssia_zoo.errors import ConfigError
from ssia_zoo.evaluation.scores import Scores
from ssia_zoo.log import quiet
from ssia_zoo.models.loading import load_model
from ssia_zoo.report import check_report, report_model
from ssia_zoo.training.arguments import check_config, parse_config, read_config
from ssia_zoo.training.config import TrainConfig
from ssia_zoo.training.folder import SETTINGS
from ssia_zoo.training.loop import train
from ssia_zoo.training.metrics import read_records
from ssia_zoo.training.model import create_model

_log = logging.getLogger(__name__)

RECIPE: dict[str, Any] = {
    **{"pretrained": True, "epochs": 20, "batch_size": 32, "optimizer": "adamw", "lr": 3e-3},
    **{"ema": 0.99, "smoothing": 0.1, "scale": (0.35, 1.0), "color_jitter": 0.2, "class_weights": "auto"},
    **{"keep_best": True, "patience": 5, "workers": 2, "channels_last": True, "output_dir": "runs/finetuned"},
}
"""Defaults of `finetune` that differ from those of `train`."""

LR_WITHOUT_BATCH_NORM = 1e-4
"""Learning rate for networks without BatchNorm, such as ViT and ConvNeXt: common practice for AdamW, not measured."""

HOLDOUT = 0.15
"""Fraction of the training images to hold out if the data has no validation split."""

_TIMED_STEPS = 8
_TIME_TO_TRAIN = 0.85
"""Fraction of the budget for training; the rest is for the evaluations and the report."""
_TIMING = ".timing"

_DESCRIPTION = """Fine-tune a pretrained model on PHOTOS, with a report at the end.

PHOTOS is the data set: a folder of images (one folder per class), a folder of parquet files, or a Hub id. Without a
validation split, 15 % of the training images are held out to choose the best epoch. A test split is used only for the
report. All flags are those of train; the defaults are a recipe for small data.

  --budget TIME            Train as many epochs as fit, such as 10m or 1h30m, measured by a few steps.

Examples:
  ssia-zoo finetune photos/ --model resnet50 --budget 20m --output-dir runs/photos
  ssia-zoo finetune photos/ --model resnet50 --method vanilla --output-dir runs/control
"""


def parse_finetune(args: Sequence[str], prog: str) -> tuple[TrainConfig, float | None]:
    """Read the command line of `finetune`.

    Args:
        args: The data set, then flags.
        prog: Name of the command in `--help`.

    Returns:
        Settings, and the time budget in seconds.

    Raises:
        ConfigError: A setting is missing or invalid.
        SystemExit: After `--help`, or for an unknown flag.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--budget")
    known, rest = first.parse_known_args(args)
    if not rest or (rest[0].startswith("-") and not {"-h", "--help"} & set(rest)):
        raise ConfigError(f"the data set is missing; write {prog} PHOTOS --model NAME")
    if not rest[0].startswith("-"):
        rest = ["--dataset", *rest]
    flags = {word.partition("=")[0] for word in rest}
    if "--config" in flags:
        raise ConfigError("--config replaces the recipe of finetune; use ssia-zoo train --config")
    config = parse_config(rest, prog, default=TrainConfig(**RECIPE), description=_DESCRIPTION)
    if not {"--lr", "--lr-base"} & flags:
        config = _with_rate(config)
    return config, None if known.budget is None else read_duration(known.budget)


def _with_rate(config: TrainConfig) -> TrainConfig:
    """Lower the learning rate for a network without BatchNorm."""
    with quiet(logging.ERROR):
        model = create_model(replace(config, pretrained=False))
    if any(isinstance(module, _BatchNorm) for module in model.modules()):
        return config
    _log.info("`lr` is %g, as %s has no BatchNorm", LR_WITHOUT_BATCH_NORM, config.model)
    return replace(config, lr=LR_WITHOUT_BATCH_NORM)


def read_duration(text: str) -> float:
    """Return the seconds of a duration such as 90s, 10m, 1h30m or 600.

    Raises:
        ConfigError: It is none, or 0.
    """
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?", text.strip().lower())
    hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    if not (total := 3600 * hours + 60 * minutes + seconds):
        raise ConfigError(f"--budget {text}: expected a time such as 90s, 10m or 1h30m")
    return float(total)


def finetune(config: TrainConfig, budget: float | None = None) -> Scores:
    """Train, then evaluate the saved weights and write the report into the folder `report` of the output folder.

    Args:
        config: Settings; without `holdout` and `eval_split`, a validation split is used or 15 % are held out.
        budget: Seconds for everything, which decide `epochs`; if None, `epochs` stays.

    Returns:
        Scores on the test split, if there is one, else on the images that chose the epoch.

    Raises:
        SSIAZooError: As `train` and `report_model`.
        TrainingStopped: As `train`.
    """
    start = time.monotonic()
    check_config(config)
    if (processes := os.environ.get("WORLD_SIZE", "1")) != "1":
        raise ConfigError(f"finetune runs in one process, not {processes}; for several: accelerate launch train_hf.py")
    folder = Path(config.output_dir)
    check_report(folder / "report")
    config = _with_holdout(config)
    with quiet():
        several = load_image_data(config).multi_label
    if several:
        raise ConfigError("finetune and its report take one label an image, but the images have several; use train")
    if budget is not None:
        config = _within(config, budget, start)
    train(config)
    data, about = _report_data(config)
    records = read_records(folder / "metrics.jsonl")
    title = f"{config.model} fine-tuned on {config.dataset}{about}"
    scores = report_model(load_model(f"local-dir:{folder}"), data, folder / "report", title=title, curves=records)
    _log.info(
        "%s: top-1 %.2f %%, balanced accuracy %.2f %%, %d images%s; report: %s",
        *(data.eval_split or "holdout", scores.top1, scores.balanced_accuracy, scores.images, about),
        folder / "report" / "report.html",
    )
    return scores


def _with_holdout(config: TrainConfig) -> TrainConfig:
    """Choose the images that decide which epoch is saved: a validation split, or a part of the training split."""
    if config.holdout or config.eval_split is not None:
        return config
    validation = [name for name in split_names(config) if split_of_name(name) == "validation"]
    if validation:
        return replace(config, eval_split=validation[0])
    _log.info("no validation split: %g %% of the training images are held out, the same for every class", 100 * HOLDOUT)
    return replace(config, holdout=HOLDOUT)


def _report_data(config: TrainConfig) -> tuple[DataConfig, str]:
    """Return the data to report on, and what to say of it."""
    data = DataConfig(**{field.name: getattr(config, field.name) for field in fields(DataConfig)})
    tests = [name for name in split_names(config) if names_test_split(name)]
    if tests:
        return replace(data, eval_split=tests[0], holdout=0.0), ""
    return data, " (these images chose the epoch, so their scores are too high)" if config.selects else ""


def _within(config: TrainConfig, budget: float, start: float) -> TrainConfig:
    """Set the number of epochs so that the run takes about `budget` seconds from `start`."""
    folder = Path(config.output_dir)
    if config.resume and (folder / SETTINGS).exists():
        epochs = read_config(str(folder / SETTINGS)).epochs
        _log.info("budget: resuming with the %d epochs of the run", epochs)
        return replace(config, epochs=epochs)
    shutil.rmtree(folder / _TIMING, ignore_errors=True)  # of a call that was killed
    if folder.exists() and any(path.name != ".lock" for path in folder.iterdir()):
        return config  # train() refuses this folder
    seconds = _seconds_per_epoch(config, folder / _TIMING)
    left = _TIME_TO_TRAIN * budget - (time.monotonic() - start)
    epochs = max(1, int(left / seconds))
    _log.info(
        "budget %d s: an epoch takes about %.0f s on this machine, so `epochs` is %d%s",
        *(budget, seconds, epochs),
        "" if left >= seconds else "; the budget is too short, and one epoch exceeds it",
    )
    return replace(config, epochs=epochs)


def _seconds_per_epoch(config: TrainConfig, folder: Path) -> float:
    """Time a few training steps, in a folder that is removed."""
    changes: dict[str, Any] = {
        **{"output_dir": str(folder), "max_steps": _TIMED_STEPS, "max_eval_images": 1, "val_interval": 0},
        **{"keep_best": False, "patience": None, "with_tracking": False, "push_to_hub": False, "hub_model_id": None},
        **{"push_every": None, "hub_private": False, "resume": None},
    }
    try:
        with quiet():
            train(replace(config, **changes))
        last = [record for record in read_records(folder / "metrics.jsonl") if record["kind"] == "train"][-1]
        batch_size = read_config(str(folder / SETTINGS)).batch_size  # a number, also for auto
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    images_per_epoch = last["step"] / last["epoch"] * batch_size * config.batches_per_step
    return float(images_per_epoch / last["images_per_second"])
