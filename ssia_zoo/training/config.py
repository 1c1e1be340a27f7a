"""Settings of a training run: one dataclass, filled from defaults, then a file, then flags."""

from __future__ import annotations

import argparse
import ast
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import dacite
import tyro
import yaml

from ssia_zoo._model_files import are_arguments
from ssia_zoo._resources import resource_dir
from ssia_zoo.baselines import RivalConfig
from ssia_zoo.data import DataConfig
from ssia_zoo.errors import ConfigError
from ssia_zoo.ssia import SSIAConfig


def _read_pairs(words: list[str]) -> dict[str, Any]:
    """Read `key=value` words; a value that is no Python literal is a string, as in timm's train.py."""
    pairs = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not (key and equals):
            raise ValueError(f"{word}: expected key=value, such as depths=[2,2,2,2]")  # tyro says it and exits
        try:
            pairs[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            pairs[key] = text
    return pairs


Pairs = Annotated[
    dict[str, Any],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="[KEY=VALUE ...]",
        instance_from_str=_read_pairs,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda pairs: [f"{key}={value!r}" for key, value in pairs.items()],
    ),
]
"""Arguments as `key=value` words on the command line and as a mapping in a file."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(DataConfig):
    """Train or fine-tune a timm classifier, with the SSIA loss or without.

    Examples:
      train_hf.py --model resnet18 --dataset uoft-cs/cifar10 --image-size 32 --epochs 30 --output-dir runs/r18
      train_hf.py --config hub_configs/mobilenetv3_small_050_ssia.digits_r32.json --output-dir runs/again
    """

    dataset: str = ""
    """Hub id, folder of parquet files, folder of images (one folder a class), or "digits"; required"""
    model: str = ""
    """timm model, `local-dir:FOLDER` or `hf-hub:org/name`; required"""
    output_dir: str = ""
    """folder for everything the run writes; required"""
    pretrained: bool = False
    """start from the model's published weights (fine-tune) instead of from scratch"""
    model_kwargs: Pairs = field(default_factory=dict)
    """arguments of the architecture, such as `depths=[2,2,2,2]` or `block_args={'attn_layer':'cbam'}`; recorded in
    config.json, so that plain timm builds the same model"""
    method: str = "ssia"
    """training objective: ssia, vanilla, or a rival of docs/rivals.md: sad, at, dsn, byot, dks"""
    ssia: SSIAConfig = field(default_factory=SSIAConfig)
    rival: RivalConfig = field(default_factory=RivalConfig)

    epochs: int = 30
    """passes over the training split"""
    max_steps: int | None = None
    """stop after this many optimizer steps, if the epochs have not ended before; the learning rate's schedule stays"""
    optimizer: str = "adamw"
    """any of timm's optimizers"""
    lr: float = 1e-3
    """peak learning rate; timm's cosine falls during the warm-up too, so that a short run stays below it"""
    momentum: float = 0.9
    """for optimizers that have it"""
    weight_decay: float = 0.05
    """not applied to biases, norms and what the model itself exempts"""
    schedule: Literal["cosine", "constant", "wsd"] = "cosine"
    """of the learning rate, after a warm-up: timm's cosine, constant, or warm-up-stable-decay"""
    warmup_epochs: float | None = None
    """epochs over which the learning rate rises linearly from 0.1 % of its peak; 1 (half of --epochs, if fewer)"""
    min_lr: float = 0.0
    """learning rate at the end"""
    accumulation_steps: int = 1
    """batches whose gradients make one optimizer step"""
    clip_grad: float | None = None
    """clip gradients to this norm"""
    ema: float | None = None
    """decay of an exponential moving average of the weights, which then is what is evaluated and saved"""
    smoothing: float = 0.0
    """label smoothing"""
    mixup: float = 0.0
    """mixup alpha"""
    cutmix: float = 0.0
    """cutmix alpha"""
    drop_rate: float | None = None
    """dropout before the classifier; the model's own if not given"""
    drop_path_rate: float | None = None
    """stochastic depth; the model's own if not given"""

    seed: int = 0
    """of the initial weights, the data order and the augmentation"""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """autocast; on a CPU without bf16 instructions (AVX512-BF16, AMX, Arm's BF16) bf16 is many times slower than no"""
    channels_last: bool = False
    """memory format that suits convolutions"""
    compile: bool = False
    """compile the model with torch.compile"""

    val_interval: int = 1
    """epochs between evaluations, one more at the end; 0: only at the end, so that a test split is looked at once"""
    resume: str | None = None
    """continue a stopped run: `auto` takes the newest checkpoint of --output-dir, or give a checkpoint's path"""
    checkpoint_every: int | None = None
    """optimizer steps between checkpoints; once an epoch if not given"""
    keep_checkpoints: int = 2
    """older checkpoints are deleted"""
    with_tracking: bool = False
    """report to an experiment tracker"""
    tracker: str = "tensorboard"
    """any of Accelerate's trackers"""

    push_to_hub: bool = False
    """publish the result on the Hugging Face Hub"""
    hub_model_id: str | None = None
    """repository, org/name"""
    hub_private: bool = False
    """create the repository as a private one"""
    push_every: int | None = None
    """epochs between pushes during training; only at the end if not given"""

    def experiment(self) -> dict[str, Any]:
        """The settings that decide the trained weights: all but where they go. JSON-ready."""
        settings: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return {name: value for name, value in settings.items() if name not in _OUTPUT_FIELDS}

    def to_yaml(self) -> str:
        """Every setting, as `--config` takes it."""
        return yaml.safe_dump(json.loads(json.dumps(asdict(self))), sort_keys=False)


_OUTPUT_FIELDS = (
    *("output_dir", "resume", "checkpoint_every", "keep_checkpoints", "with_tracking", "tracker"),
    *("push_to_hub", "hub_model_id", "hub_private", "push_every", "val_interval"),
)


class _Loader(yaml.SafeLoader):
    """Safe YAML that takes 1e-3 for a number, as JSON and everybody else does; PyYAML wants 1.0e-3."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+"), list("-+.0123456789")
)


def read_config(source: str) -> TrainConfig:
    """Read settings from a file.

    Args:
        source: A YAML or JSON file of settings, a JSON of hub_configs/ (its training settings are taken), or the name
            of a published weight, such as "mobilenetv3_small_050_ssia.digits_r32".

    Raises:
        ConfigError: If it cannot be read or holds an unknown or wrong setting; names the file and the field.
    """
    path = Path(source)
    published = resource_dir("hub_configs") / f"{source}.json"
    if not path.exists() and path.name == source and published.is_file():
        path = published
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # JSON is YAML, but for its floats
    except OSError as error:
        raise ConfigError(
            f"--config {source}: cannot be read ({error.strerror}); expected a YAML or JSON file"
        ) from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"--config {source}: is not valid YAML or JSON: {' '.join(str(error).split())}") from error
    if isinstance(data, dict) and "sha256" in data and isinstance(data.get("training"), dict):
        data = data["training"]  # a published weight's description
    if not isinstance(data, dict):
        raise ConfigError(f"--config {source}: expected settings by name, got {type(data).__name__}")
    try:
        return dacite.from_dict(TrainConfig, data, dacite.Config(strict=True, cast=[tuple]))
    except (dacite.DaciteError, TypeError, ValueError) as error:
        raise ConfigError(f"--config {source}: {error}") from error


def parse_config(args: Sequence[str]) -> TrainConfig:
    """Settings from command line flags over those of `--config FILE`.

    Raises:
        ConfigError: If a setting is missing or makes no sense.
        SystemExit: After `--help`, or for a flag that does not exist.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config")
    known, rest = first.parse_known_args(args)
    default = read_config(known.config) if known.config else TrainConfig()
    description = f"{TrainConfig.__doc__}\n--config FILE takes settings from YAML or JSON; flags override them."
    config = tyro.cli(TrainConfig, args=rest, default=default, prog="train_hf.py", description=description)
    check_config(config)
    return config


def check_config(config: TrainConfig) -> None:
    """Check what no type can say.

    Raises:
        ConfigError: Names the flag, its value and what was expected.
    """
    required = {"model": "a timm model", "dataset": "a Hub id, a folder, or digits", "output_dir": "a folder"}
    for name, meaning in required.items():
        if not getattr(config, name):
            raise ConfigError(f"{_flag(name)} is missing; expected {meaning}")
    for name in (
        "epochs",
        "batch_size",
        "accumulation_steps",
        "keep_checkpoints",
        "max_steps",
        "checkpoint_every",
        "push_every",
    ):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ConfigError(f"{_flag(name)} is {value}; expected at least 1")
    if config.val_interval < 0:
        raise ConfigError(f"--val-interval is {config.val_interval}; expected epochs, or 0 for the end alone")
    if config.push_every and not config.val_interval:
        raise ConfigError("--push-every states what it publishes scores; with --val-interval 0 leave it out")
    _check_model_kwargs(config.model_kwargs)
    for name in ("lr", "clip_grad"):
        value = getattr(config, name)
        if value is not None and not 0 < value < float("inf"):
            raise ConfigError(f"{_flag(name)} is {value}; expected a number above 0")
    for name in ("weight_decay", "warmup_epochs", "min_lr", "mixup", "cutmix"):
        if not 0 <= (getattr(config, name) or 0) < float("inf"):
            raise ConfigError(f"{_flag(name)} is {getattr(config, name)}; expected a number of at least 0")
    for name in ("momentum", "smoothing", "ema", "drop_rate", "drop_path_rate"):
        value = getattr(config, name)
        if value is not None and not 0 <= value < 1:
            raise ConfigError(f"{_flag(name)} is {value}; expected a number from 0 to below 1")
    if not 0 <= config.seed < 2**31:
        raise ConfigError(f"--seed is {config.seed}; expected a whole number from 0 to {2**31 - 1}")
    if config.min_lr > config.lr:
        raise ConfigError(f"--min-lr is {config.min_lr}; expected at most --lr {config.lr}")
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
