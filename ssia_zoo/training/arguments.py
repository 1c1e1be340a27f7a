"""Read the settings of a training run from defaults, a file and command line flags, and check them."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import tyro
import yaml

from ssia_zoo.errors import ConfigError, SSIAZooError, one_line
from ssia_zoo.extras import require_packages
from ssia_zoo.hub.files import are_arguments
from ssia_zoo.models.registry import published_weight
from ssia_zoo.resources import resource_dir
from ssia_zoo.training.config import BEFORE_PIXELS, AutoBatchSize, TrainConfig
from ssia_zoo.training.methods import check_method

_log = logging.getLogger(__name__)

_USED_BY_PROBE = (
    *("dataset", "dataset_config", "train_split", "eval_split", "image_column", "label_column", "num_classes"),
    *("labels", "label_separator"),
    *("holdout", "max_train_images", "max_eval_images", "max_corrupt", "max_pixels", "check_duplicates"),
    *("image_size", "interpolation", "crop_pct", "crop_mode", "batch_size", "eval_batch_size", "workers"),
    *("model", "model_kwargs", "pretrained", "probe", "probe_flip", "seed", "method", "channels_last", "output_dir"),
    *("with_tracking", "tracker", "push_to_hub", "hub_model_id", "hub_private"),
)

_WRITTEN_BY_A_RUN = {"resume", "keep_checkpoints", "max_corrupt"}
"""Settings that stand together in a run's train_config.yaml, which has all of them, rather than in a file by hand."""


def read_config(source: str) -> TrainConfig:
    """Read settings from a file.

    Args:
        source: A YAML or JSON file of settings, a JSON file of hub_configs/ (its training settings are used), or the
            name of a published weight, such as "mobilenetv3_small_050_ssia.digits_r32"; "./NAME" is always a file.

    Raises:
        ConfigError: The file cannot be read, or a setting is unknown or invalid.
    """
    path = Path(source)
    if (published := published_weight(source)) is not None:
        if path.exists():
            _log.warning("--config %s is the published weight; for the file of this name, write ./%s", source, source)
        path = resource_dir("hub_configs") / f"{published.name}.json"
    try:
        data = _parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"--config {source}: cannot be read ({error.strerror}); expected a YAML or JSON file"
        ) from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"--config {source}: is not valid YAML or JSON: {one_line(error)}") from error
    published_file = isinstance(data, dict) and "sha256" in data and isinstance(data.get("training"), dict)
    if published_file:
        data = data["training"]
    if not isinstance(data, dict):
        raise ConfigError(f"--config {source}: expected settings by name, got {type(data).__name__}")
    if (published_file or data.keys() >= _WRITTEN_BY_A_RUN) and "pixels" not in data:
        _log.info("--config %s is older than `pixels`, which is therefore %s", source, BEFORE_PIXELS["pixels"])
        data = {**data, **BEFORE_PIXELS}
    try:
        return TrainConfig(**{str(name): value for name, value in data.items()})
    except ConfigError as error:
        raise ConfigError(f"--config {source}: {error}") from error


def _parse(text: str) -> Any:
    """Parse JSON or YAML; PyYAML alone would take the number 1e-3 of a JSON file for a string."""
    try:
        return json.loads(text)
    except ValueError:
        return yaml.safe_load(text)


def parse_config(
    args: Sequence[str],
    prog: str = "train_hf.py",
    default: TrainConfig | None = None,
    description: str = f"{TrainConfig.__doc__}\n--config FILE reads settings from YAML or JSON; flags override them.",
) -> TrainConfig:
    """Read settings from command line flags, which override those of `--config FILE`.

    Args:
        args: Command line flags.
        prog: Name of the command in `--help`.
        default: Settings that neither a flag nor a file sets; if None, those of `TrainConfig`.
        description: Text of `--help`.

    Raises:
        ConfigError: A setting is missing or invalid, or settings contradict each other.
        SystemExit: After `--help`, or for an unknown flag.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config")
    known, rest = first.parse_known_args(args)
    default = read_config(known.config) if known.config else default or TrainConfig()
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            config = tyro.cli(TrainConfig, args=rest, default=default, prog=prog, description=description)
    except SystemExit as stop:
        if (refused := _find_cause(stop)) is not None:  # tyro prints a box around errors of a settings class
            raise ConfigError(str(refused)) from refused
        sys.stderr.write(printed.getvalue())
        raise
    check_config(config)
    return config


def _find_cause(error: BaseException | None) -> SSIAZooError | None:
    """Return the error of this package that caused another error, if any."""
    while error is not None and not isinstance(error, SSIAZooError):
        error = error.__cause__ or error.__context__
    return error


def check_config(config: TrainConfig) -> None:
    """Check that required settings are given and that settings do not contradict each other.

    Raises:
        ConfigError: Names the settings and what was expected.
    """
    required = {"model": "a timm model", "dataset": "a Hub id, a folder, or digits", "output_dir": "a folder"}
    for name, meaning in required.items():
        if not getattr(config, name):
            raise ConfigError(f"`{name}` is missing; expected {meaning}")
    _check_output_dir(config)
    _check_model_kwargs(config.model_kwargs)
    _check_fine_tuning(config)
    for name in ("min_lr", "warmup_lr"):
        if config.lr_base is None and (rate := getattr(config, name)) is not None and rate > config.lr:
            raise ConfigError(f"`{name}` is {rate}; expected at most `lr` {config.lr}")
    _check_schedule(config)
    if not config.bce_loss and (config.bce_sum or config.bce_target_thresh is not None):
        raise ConfigError("`bce_sum` and `bce_target_thresh` require `bce_loss`")
    if (config.mixup or config.cutmix) and config.batch_size % 2:
        raise ConfigError(f"`batch_size` is {config.batch_size}; expected an even number with `mixup` or `cutmix`")
    if config.warmup_epochs and config.warmup_epochs >= config.epochs:
        raise ConfigError(f"`warmup_epochs` is {config.warmup_epochs}; expected less than `epochs` {config.epochs}")
    if config.push_to_hub and not config.hub_model_id:
        raise ConfigError("`push_to_hub` requires `hub_model_id` org/name")
    if not config.push_to_hub and (config.hub_model_id or config.push_every or config.hub_private):
        raise ConfigError("`hub_model_id`, `hub_private` and `push_every` require `push_to_hub`")
    if config.mixup_off_epoch and not (config.mixup or config.cutmix):
        raise ConfigError("`mixup_off_epoch` requires `mixup` or `cutmix`")
    if config.clip_mode != "norm" and config.clip_grad is None:
        raise ConfigError(f"`clip_mode` {config.clip_mode} requires `clip_grad`")
    if config.eval_split == (config.train_split or "train") and not (config.holdout or config.eval_only):
        raise ConfigError(f"`eval_split` is {config.eval_split}, the training split; set another one, or `holdout` 0.1")
    if config.push_every and not config.val_interval:
        raise ConfigError("`push_every` publishes a score with each push; leave it out with `val_interval` 0")
    _check_selection(config)
    if config.class_weights == "auto" and config.balanced_sampling:
        raise ConfigError(
            "`class_weights` auto and `balanced_sampling` both make up for uneven classes; leave out one of them"
        )
    _check_serializable("method_kwargs", config.method_kwargs, "train_config.yaml")
    check_method(config)
    if config.method == "ssia":
        _check_supervisor(config)


def _check_output_dir(config: TrainConfig) -> None:
    """Refuse a folder within the data's, whose files would become images and classes of the next run."""
    data, out = Path(config.dataset).expanduser(), Path(config.output_dir)
    if data.is_dir() and out.resolve().is_relative_to(data.resolve()):
        raise ConfigError(
            f"`output_dir` {out}: lies in the folder of the data, {data}; its files would become images and "
            "classes: choose a folder outside"
        )


_SCHEDULES = {
    "min_lr": ("cosine", "tanh", "poly", "wsd", "rsqrt"),
    "decay_epochs": ("step", "wsd", "rsqrt"),
    "decay_milestones": ("multistep",),
    "decay_rate": ("step", "multistep", "poly"),
}
"""The schedules that use a setting, by timm's create_scheduler_v2."""


def _check_schedule(config: TrainConfig) -> None:
    """Refuse settings that the schedule lacks or ignores."""
    if config.schedule == "multistep" and not config.decay_milestones:
        raise ConfigError("`schedule` is multistep, which requires `decay_milestones`, such as 30 60")
    for name, schedules in _SCHEDULES.items():
        if getattr(config, name) != getattr(TrainConfig, name) and config.schedule not in schedules:
            raise ConfigError(
                f"`{name}` belongs to `schedule` {', '.join(schedules)}, not {config.schedule}; leave it out"
            )


def _check_supervisor(config: TrainConfig) -> None:
    if config.ssia.supervisor == "memory":
        _check_memory(config)
    if config.ssia.supervisor == "average" and config.ema is None:
        raise ConfigError(
            "`ssia.supervisor` average requires a moving average; set `ema`, such as 0.999, or set `ssia.supervisor` "
            "now or memory"
        )
    if config.ssia.top and config.bce_loss:
        raise ConfigError("`ssia.top` adds a softmax cross-entropy to the task loss; leave out it or `bce_loss`")


def _check_fine_tuning(config: TrainConfig) -> None:
    """Check the settings that train part of a pretrained model."""
    chosen = [name for name in ("freeze", "lora", "probe") if getattr(config, name) not in (None, False)]
    if len(chosen) > 1:
        raise ConfigError(f"`{chosen[0]}` and `{chosen[1]}` exclude each other; leave out one of them")
    if chosen and not config.pretrained:
        raise ConfigError(f"`{chosen[0]}` requires `pretrained`, as it leaves weights of the model unchanged")
    if config.lora is not None:
        require_packages("`lora`", ["peft"], "'ssia-zoo[lora]'")
    if config.freeze == "head" and config.head_lr is not None:
        raise ConfigError("`freeze` is head: only the classifier trains; set `lr` in place of `head_lr`")
    if config.freeze == "head" and config.method != "vanilla":
        raise ConfigError(f"`freeze` is head: `method` {config.method} has no stage to train; set `method` to vanilla")
    if config.probe:
        _check_probe(config)
    if isinstance(config.batch_size, AutoBatchSize) and (config.probe or config.eval_only):
        raise ConfigError("`batch_size` auto tries training steps; set a number with `probe` or `eval_only`")
    if config.probe_flip and not config.probe:
        raise ConfigError("`probe_flip` requires `probe`")


def _check_probe(config: TrainConfig) -> None:
    """Refuse settings that a probe does not use, as it trains no epochs on augmented images."""
    if config.method not in ("ssia", "vanilla"):
        raise ConfigError(f"`probe` trains no features, so `method` {config.method} has no effect; leave it out")
    default = TrainConfig()
    unused = [
        f"`{field.name}`"
        for field in fields(config)
        if field.name not in _USED_BY_PROBE and getattr(config, field.name) != getattr(default, field.name)
    ]
    if unused:
        raise ConfigError(f"`probe` fits the classifier alone and does not use {', '.join(unused)}; leave it out")


def _check_selection(config: TrainConfig) -> None:
    """Refuse settings with which no evaluations can be compared, or others than the best weights are published."""
    for name in ("keep_best", "patience"):
        if getattr(config, name) and not config.val_interval:
            raise ConfigError(
                f"`val_interval` is 0, which evaluates only after training; expected at least 1 with `{name}`"
            )
    if config.keep_best and config.push_every:
        raise ConfigError("`push_every` publishes weights before the best are known; leave it out with `keep_best`")


def _check_memory(config: TrainConfig) -> None:
    """Refuse what a memory cannot store: it holds one prediction per row of the training split, of unmixed images."""
    if config.streaming:
        raise ConfigError(
            "`ssia.supervisor` memory requires images with fixed rows; leave out `streaming`, or set `ssia.supervisor` "
            "now or average"
        )
    if config.mixup or config.cutmix:
        raise ConfigError(
            "`ssia.supervisor` memory does not support mixed images; leave out `mixup` and `cutmix`, or set "
            "`ssia.supervisor` now or average"
        )
    if config.aug_repeats > 1:
        raise ConfigError(
            f"`aug_repeats` is {config.aug_repeats}; `ssia.supervisor` memory supports one view per image: expected 1, "
            "or `ssia.supervisor` now or average"
        )


def _check_model_kwargs(kwargs: dict[str, Any]) -> None:
    elsewhere = {
        "num_classes": "the number of classes comes from the data set",
        "in_chans": "use `in_chans`",
        "img_size": "use `image_size`",
        "drop_rate": "use `drop_rate`",
        "drop_path_rate": "use `drop_path_rate`",
    }
    for name, value in kwargs.items():
        if name in elsewhere:
            raise ConfigError(f"`model_kwargs` {name}={value}: {elsewhere[name]}; leave it out")
        _check_serializable("model_kwargs", {name: value}, "config.json")
        if not are_arguments({name: value}):
            raise ConfigError(
                f"`model_kwargs` {name}={value!r}: is not an argument of an architecture, or holds a number out of "
                "range; leave it out"
            )


def _check_serializable(setting: str, kwargs: dict[str, Any], file: str) -> None:
    for name, value in kwargs.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"`{setting}` {name}={value!r}: cannot be saved in {file} ({error}); expected numbers, strings, true "
                "or false, and lists or mappings of them"
            ) from error
