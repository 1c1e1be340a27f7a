"""A published weight: the fields of one JSON file in hub_configs/, and their validation.

`import ssia_zoo` reads every file, so this uses the standard library only: pydantic would add about 0.2 s to it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from ssia_zoo.errors import ConfigError
from ssia_zoo.models.typed_json import Rule, matching, one_of, parse
from ssia_zoo.timm_names import CROP_MODES, INTERPOLATIONS

_Count = Annotated[int, Rule(lambda value: value >= 1, "at least 1")]
_Percent = Annotated[float, Rule(lambda value: 0 <= value <= 100, "a percentage")]
_Finite = Annotated[float, Rule(lambda value: -1e6 < value < 1e6, "a finite number")]
_Positive = Annotated[float, Rule(lambda value: 0 < value < 1e6, "a positive number")]
_Fraction = Annotated[float, Rule(lambda value: 0 < value <= 1, "above 0 and at most 1")]
_Sha256 = Annotated[str, matching(r"[0-9a-f]{64}")]
_Commit = Annotated[str, matching(r"[0-9a-f]{40}")]


def _is_plain_safetensors(name: str) -> bool:
    return name.endswith(".safetensors") and PurePosixPath(name).name == name and "\\" not in name and name[0] != "."


@dataclass(frozen=True, kw_only=True)
class DatasetTerms:
    """The data a weight was trained on, and its terms of use."""

    name: str
    source: str
    """where to get it: a Hub id, an address, or the package that contains it"""
    license: str
    terms: str
    """what these terms ask of users of the weight, in one sentence"""
    unchanged: bool = True
    """whether the images were those of the source, and not a copy that differs, as `name` then says"""


@dataclass(frozen=True, kw_only=True)
class PairedRun:
    """Top-1 in percent for one seed, with SSIA and without (same initial weights, data order and budget)."""

    seed: int
    ssia: float
    vanilla: float


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Results on the evaluation split, for every seed that was run."""

    split: str
    images: _Count
    seed: int
    """seed of the published weight"""
    top1: _Percent
    """percent, of the published file as loaded by timm"""
    control_top1: _Percent
    """percent, of the vanilla run with the same seed"""
    runs: tuple[PairedRun, ...]


@dataclass(frozen=True, kw_only=True)
class PublishedWeight:
    """A published weight: included in this package, on the Hub, or both (the included file is then used)."""

    architecture: str
    """vanilla timm architecture"""
    tag: Annotated[str, matching(r"[a-z0-9_]+")]
    """data set and image size, e.g. "c10_r32" """
    default: bool
    """whether the architecture's name without a tag means this weight"""
    description: str
    file: Annotated[str, Rule(_is_plain_safetensors, "the plain name of a .safetensors file")] | None
    """float16 safetensors file in hub_configs/; None if the weight is on the Hub only"""
    sha256: _Sha256 | None
    """of that file"""
    repo_id: str | None
    """None until the project owns a repository: anyone could claim an unowned name"""
    revision: _Commit | None
    """commit of the repository"""
    repo_sha256: _Sha256 | None
    """of the repository's model.safetensors, float32"""
    num_classes: _Count
    label_names: tuple[str, ...]
    input_size: tuple[_Count, _Count, _Count]
    """channels, height, width"""
    mean: tuple[_Finite, _Finite, _Finite]
    std: tuple[_Positive, _Positive, _Positive]
    interpolation: Annotated[str, one_of(INTERPOLATIONS)]
    crop_pct: _Fraction
    license: str
    dataset: DatasetTerms
    training: dict[str, Any]
    """settings of the run, including SSIA's; train_hf.py takes this file as its configuration"""
    environment: dict[str, str]
    """versions and machine of the run"""
    metrics: Metrics
    crop_mode: Annotated[str, one_of(CROP_MODES)] = "center"
    """how evaluation treats images of other aspect ratios"""

    @property
    def arch_name(self) -> str:
        """Name registered with timm, without tag."""
        return f"{self.architecture}_ssia"

    @property
    def name(self) -> str:
        """Name registered with timm."""
        return f"{self.arch_name}.{self.tag}"


def read_published_weight(path: Path) -> PublishedWeight:
    """Read and validate one file of hub_configs/.

    Raises:
        ConfigError: If it is not valid; names the file and the field.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: is not valid JSON: {error}") from error
    return parse_published_weight(data, path)


def parse_published_weight(data: object, path: Path) -> PublishedWeight:
    """Validate the content of a file of hub_configs/.

    Args:
        data: What the JSON holds.
        path: The file, whose name is the weight's.

    Raises:
        ConfigError: If it is not valid; names the file and the field.
    """
    try:
        weight: PublishedWeight = parse(PublishedWeight, data)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    for field, valid, fault in _relations(weight, path):
        if not valid:
            raise ConfigError(f"{path}: field {field!r}: {fault}")
    return weight


def read_published_weights(folder: Path) -> list[PublishedWeight]:
    """Read every weight of a folder.

    Raises:
        ConfigError: If a file is not valid, or an architecture does not have exactly one default weight.
    """
    weights = [read_published_weight(path) for path in sorted(folder.glob("[!.]*.json"))]
    for architecture in {weight.architecture for weight in weights}:
        check_default(folder, [weight for weight in weights if weight.architecture == architecture])
    return weights


def check_default(folder: Path, weights: Sequence[PublishedWeight]) -> None:
    """Check that exactly one weight of an architecture is its default.

    Raises:
        ConfigError: If not.
    """
    defaults = [weight.tag for weight in weights if weight.default]
    if len(defaults) != 1:
        architecture = weights[0].architecture
        raise ConfigError(f"{folder}: field 'default': {architecture} needs exactly one default tag, has {defaults}")


def _relations(weight: PublishedWeight, path: Path) -> list[tuple[str, bool, str]]:
    """Rules between fields: field, whether its rule holds, what is wrong otherwise."""
    hub, names, metrics = weight.repo_id, weight.label_names, weight.metrics
    return [
        ("architecture", path.stem == weight.name, f"{weight.name} does not match the file's name {path.stem}"),
        ("file", bool(weight.file or hub), "both file and repo_id are null; expected at least one"),
        ("sha256", *_both_or_neither(weight.sha256, "file", weight.file)),
        ("repo_sha256", *_both_or_neither(weight.repo_sha256, "repo_id", hub)),
        ("revision", *_both_or_neither(weight.revision, "repo_id", hub)),
        ("label_names", len(names) == weight.num_classes, f"{len(names)} names for {weight.num_classes} classes"),
        (
            "metrics.runs",
            metrics.seed in {run.seed for run in metrics.runs},
            f"none has the weight's seed {metrics.seed}",
        ),
    ]


def _both_or_neither(value: str | None, field: str, other: str | None) -> tuple[bool, str]:
    return (value is None) == (other is None), f"is {value!r}, but {field} is {other!r}; set both or neither"
