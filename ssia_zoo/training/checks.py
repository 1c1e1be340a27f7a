"""Checks of a run's settings: what no type can say."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ssia_zoo.errors import ConfigError
from ssia_zoo.hub.files import are_arguments

if TYPE_CHECKING:
    from ssia_zoo.training.config import TrainConfig


def check_config(config: TrainConfig) -> None:
    """Check what no type can say.

    Raises:
        ConfigError: Names the flag, its value and what was expected.
    """
    required = {"model": "a timm model", "dataset": "a Hub id, a folder, or digits", "output_dir": "a folder"}
    for name, meaning in required.items():
        if not getattr(config, name):
            raise ConfigError(f"{_flag(name)} is missing; expected {meaning}")
    _check_ranges(config)
    _check_model_kwargs(config.model_kwargs)
    if config.lr_base is None and config.min_lr > config.lr:
        raise ConfigError(f"--min-lr is {config.min_lr}; expected at most --lr {config.lr}")
    if config.schedule == "multistep" and not config.decay_milestones:
        raise ConfigError("--schedule multistep needs --decay-milestones, such as 30 60")
    if not config.bce_loss and (config.bce_sum or config.bce_target_thresh is not None):
        raise ConfigError("--bce-sum and --bce-target-thresh do nothing without --bce-loss")
    if (config.mixup or config.cutmix) and config.batch_size % 2:
        raise ConfigError(
            f"--batch-size is {config.batch_size}; --mixup and --cutmix pair images: expected an even one"
        )
    if config.warmup_epochs and config.warmup_epochs >= config.epochs:
        raise ConfigError(f"--warmup-epochs is {config.warmup_epochs}; expected fewer than --epochs {config.epochs}")
    if config.push_to_hub and not config.hub_model_id:
        raise ConfigError("--push-to-hub needs --hub-model-id org/name")
    if not config.push_to_hub and (config.hub_model_id or config.push_every or config.hub_private):
        raise ConfigError("--hub-model-id, --hub-private and --push-every do nothing without --push-to-hub")
    if config.mixup_off_epoch and not (config.mixup or config.cutmix):
        raise ConfigError("--mixup-off-epoch does nothing without --mixup or --cutmix")
    if config.clip_mode != "norm" and config.clip_grad is None:
        raise ConfigError(f"--clip-mode {config.clip_mode} does nothing without --clip-grad")
    if config.eval_split == (config.train_split or "train") and not (config.holdout or config.eval_only):
        raise ConfigError(f"--eval-split {config.eval_split} is what is trained on; choose another, or --holdout 0.1")
    if config.method == "ssia" and config.ssia.supervisor == "memory":
        _check_memory(config)
    if config.push_every and not config.val_interval:
        raise ConfigError("--push-every states what it publishes scores; with --val-interval 0 leave it out")


def _check_memory(config: TrainConfig) -> None:
    """The memory holds one prediction an image, by its row, of images as they are."""
    if config.streaming:
        raise ConfigError(
            "--ssia.supervisor memory needs images that have the same row in each epoch; leave out --streaming, or set "
            "--ssia.supervisor now"
        )
    if config.mixup or config.cutmix:
        raise ConfigError(
            "--ssia.supervisor memory does not take mixed images; leave out --mixup and --cutmix, or set "
            "--ssia.supervisor now"
        )
    if config.aug_repeats > 1:
        raise ConfigError(
            f"--aug-repeats is {config.aug_repeats}; --ssia.supervisor memory takes one view of an image a batch: "
            "expected 1, or --ssia.supervisor now"
        )
    if config.ssia.top and config.bce_loss:
        raise ConfigError("--ssia.top adds a softmax cross-entropy to the task loss; leave out it or --bce-loss")


def _check_ranges(config: TrainConfig) -> None:
    infinity = float("inf")
    counts = ("epochs", "batch_size", "accumulation_steps", "keep_checkpoints", "max_steps", "checkpoint_every")
    rules: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
        ((*counts, "push_every", "lr_base_size"), lambda v: v >= 1, "at least 1"),
        (("val_interval", "mixup_off_epoch"), lambda v: v >= 0, "epochs, or 0"),
        (("lr", "lr_base", "clip_grad", "decay_epochs", "decay_rate"), lambda v: 0 < v < infinity, "a number above 0"),
        (
            ("weight_decay", "warmup_epochs", "warmup_lr", "min_lr", "mixup", "cutmix"),
            lambda v: 0 <= v < infinity,
            "a number of at least 0",
        ),
        (
            ("momentum", "smoothing", "ema", "drop_rate", "drop_path_rate", "bce_target_thresh"),
            lambda v: 0 <= v < 1,
            "a number from 0 to below 1",
        ),
        (("layer_decay",), lambda v: 0 < v <= 1, "a factor above 0 and up to 1"),
        (("mixup_prob", "mixup_switch_prob"), lambda v: 0 <= v <= 1, "a probability"),
        (("decay_milestones",), lambda v: list(v) == sorted(set(v)) and min(v, default=1) > 0, "rising epochs"),
        (("seed",), lambda v: 0 <= v < 2**31, f"a whole number from 0 to {2**31 - 1}"),
    )
    for names, holds, expected in rules:
        for name in names:
            value = getattr(config, name)
            if value is not None and not holds(value):
                raise ConfigError(f"{_flag(name)} is {value}; expected {expected}")


def _check_model_kwargs(kwargs: dict[str, Any]) -> None:
    elsewhere = {
        "num_classes": "the data's classes are taken",
        "in_chans": "images are RGB",
        "img_size": "use --image-size",
        "drop_rate": "use --drop-rate",
        "drop_path_rate": "use --drop-path-rate",
    }
    for name, value in kwargs.items():
        if name in elsewhere:
            raise ConfigError(f"--model-kwargs {name}={value}: {elsewhere[name]}; leave it out")
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"--model-kwargs {name}={value!r}: config.json cannot hold it ({error}); expected numbers, strings, "
                "true or false, and lists or mappings of them"
            ) from error
        if not are_arguments({name: value}):
            raise ConfigError(
                f"--model-kwargs {name}={value!r}: is no argument of an architecture, or holds a number that is out "
                "of range; leave it out"
            )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
