"""One published weight, as a JSON file in hub_configs/ describes it: what it is, where it is, what it scores."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import dacite

from ssia_zoo.errors import ConfigError
from ssia_zoo.timm_names import CROP_MODES

_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TAG = re.compile(r"[a-z0-9_]+")


@dataclass(frozen=True, kw_only=True)
class DatasetTerms:
    """The data a weight was trained on, and the terms it comes under."""

    name: str
    source: str
    """where anyone gets it: a Hub id, an address, or the package that holds it"""
    license: str
    terms: str
    """what these terms ask of a user of the weight, in a sentence"""


@dataclass(frozen=True, kw_only=True)
class PairedRun:
    """Top-1 in percent of one seed, trained with SSIA and without (same initial weights, data order and budget)."""

    seed: int
    ssia: float
    vanilla: float


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """What was measured; every seed that was run, not the best."""

    split: str
    images: int
    seed: int
    """seed of the published weight"""
    top1: float
    """percent, of the published file as loaded by timm"""
    control_top1: float
    """percent, of the vanilla run with the same seed"""
    runs: tuple[PairedRun, ...]


@dataclass(frozen=True, kw_only=True)
class HubConfig:
    """A published weight: embedded in this package, on the Hub, or both (then the embedded one is used)."""

    architecture: str
    """vanilla timm architecture"""
    tag: str
    """dataset and image size, e.g. "c10_r32" """
    default: bool
    """whether the architecture's name without a tag means this weight"""
    description: str
    file: str | None
    """safetensors file in hub_configs/, float16; None if the weight is on the Hub alone"""
    sha256: str | None
    """of that file"""
    repo_id: str | None
    """None until a repository of the project's owners exists: a name without owner could be taken by a stranger"""
    revision: str | None
    """commit of the repository"""
    repo_sha256: str | None
    """of the repository's model.safetensors, float32"""
    num_classes: int
    label_names: tuple[str, ...]
    input_size: tuple[int, int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    crop_pct: float
    license: str
    dataset: DatasetTerms
    training: dict[str, Any]
    """settings of the run, SSIA's among them; `train_hf.py --config` takes this file and repeats it"""
    environment: dict[str, str]
    """versions and machine of the run"""
    metrics: Metrics
    crop_mode: str = "center"
    """what evaluation does with images of other proportions: center, squash or border"""

    @property
    def arch_name(self) -> str:
        """Name registered with timm, without tag."""
        return f"{self.architecture}_ssia"

    @property
    def name(self) -> str:
        """Name registered with timm."""
        return f"{self.arch_name}.{self.tag}"


def read_hub_config(path: Path) -> HubConfig:
    """Read and validate one file of hub_configs/.

    Raises:
        ConfigError: If it is not what is described above; names the file and the field.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ConfigError(f"{path}: expected a JSON object, got {type(data).__name__}")
        config = dacite.from_dict(HubConfig, data, dacite.Config(strict=True, cast=[tuple]))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: is not valid JSON: {error}") from error
    except (dacite.DaciteError, TypeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    for field, fault in _faults(config, path):
        raise ConfigError(f"{path}: field {field!r}: {fault}")
    return config


def read_hub_configs(folder: Path) -> list[HubConfig]:
    """Read every weight of a folder; exactly one weight of an architecture is its default.

    Raises:
        ConfigError: If a file is not valid, or an architecture has no or several defaults.
    """
    configs = [read_hub_config(path) for path in sorted(folder.glob("*.json"))]
    for architecture in {config.architecture for config in configs}:
        check_default(folder, [config for config in configs if config.architecture == architecture])
    return configs


def check_default(folder: Path, configs: Sequence[HubConfig]) -> None:
    """Check that exactly one weight of an architecture is its default.

    Raises:
        ConfigError: If not.
    """
    defaults = [config.tag for config in configs if config.default]
    if len(defaults) != 1:
        architecture = configs[0].architecture
        raise ConfigError(f"{folder}: field 'default': {architecture} needs exactly one default tag, has {defaults}")


def _faults(config: HubConfig, path: Path) -> list[tuple[str, str]]:
    """Fields whose value has the right type and is still wrong."""
    metrics = config.metrics
    hub = config.repo_id
    checks: list[tuple[str, object, str]] = [
        ("tag", _TAG.fullmatch(config.tag), f"{config.tag!r} is not made of a-z, 0-9 and _"),
        ("architecture", path.stem == config.name, f"{config.name} does not match the file's name {path.stem}"),
        ("file", config.file or hub, "is null, and so is repo_id: the weight would be nowhere"),
        ("file", config.file is None or _is_plain_safetensors(config.file), f"{config.file!r} is no .safetensors name"),
        ("sha256", *_goes_with(config.sha256, "file", config.file, _SHA256)),
        ("repo_sha256", *_goes_with(config.repo_sha256, "repo_id", hub, _SHA256)),
        ("revision", *_goes_with(config.revision, "repo_id", hub, _COMMIT)),
        ("num_classes", config.num_classes >= 1, f"{config.num_classes} is not positive"),
        (
            "label_names",
            len(config.label_names) == config.num_classes,
            f"{len(config.label_names)} names for {config.num_classes} classes",
        ),
        ("input_size", min(config.input_size) >= 1, f"{config.input_size} is not positive"),
        ("std", min(config.std) > 0, f"{config.std} is not positive"),
        ("crop_pct", 0 < config.crop_pct <= 1, f"{config.crop_pct} is not in (0, 1]"),
        ("crop_mode", config.crop_mode in CROP_MODES, f"{config.crop_mode!r} is not one of {', '.join(CROP_MODES)}"),
        ("metrics.top1", 0 <= metrics.top1 <= 100, f"{metrics.top1} is not a percentage"),
        ("metrics.control_top1", 0 <= metrics.control_top1 <= 100, f"{metrics.control_top1} is not a percentage"),
        ("metrics.runs", metrics.seed in {run.seed for run in metrics.runs}, f"lack the weight's seed {metrics.seed}"),
    ]
    return [(field, fault) for field, valid, fault in checks if not valid]


def _goes_with(value: str | None, field: str, other: str | None, form: re.Pattern[str]) -> tuple[bool, str]:
    """Whether a hash is there exactly if the field it belongs to is, and looks like one."""
    if other is None:
        return value is None, f"is {value!r} though {field} is null"
    return bool(value and form.fullmatch(value)), f"{value!r} does not match {form.pattern}, which {field} needs"


def _is_plain_safetensors(name: str) -> bool:
    return name.endswith(".safetensors") and PurePosixPath(name).name == name and "\\" not in name and name[0] != "."
