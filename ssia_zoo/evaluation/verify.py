"""Verify a weight: that it is the published file, a vanilla timm model, and reaches the stated accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ssia_zoo.data import DataConfig
from ssia_zoo.errors import ClassesError, HashError, WeightError, one_line
from ssia_zoo.evaluation.identity import Check, Description, Status, compare_with_vanilla
from ssia_zoo.evaluation.validate import validate
from ssia_zoo.hub.files import WEIGHTS, read_model_config
from ssia_zoo.hub.hashes import file_sha256
from ssia_zoo.models.features import TimmModel
from ssia_zoo.models.loading import create_checked, timm_name
from ssia_zoo.models.metric_names import describe
from ssia_zoo.models.registry import (
    published_weight,
    vanilla_architecture,
    weight_path,
    weights,
)
from ssia_zoo.models.saving import public_name

CHECKS = ("sha256", "loads", "state_dict", "parameters", "flops", "graph", "top1")
"""Names of the checks, in the order of a report."""

TOP1_TOLERANCE = 0.3
"""Allowed difference of a recomputed top-1, in points: rounding differs between machines."""


@dataclass(frozen=True)
class VerificationReport:
    """The results of all checks of a weight."""

    target: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether no check failed; skipped checks do not count."""
        return not self.failed

    @property
    def failed(self) -> str:
        """Names of the checks that failed, separated by commas."""
        return ", ".join(check.name for check in self.checks if check.status == "failed")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: "target", "ok", and "checks" with "name", "status", "detail" and "value"."""
        return {"target": self.target, "ok": self.ok, "checks": [asdict(check) for check in self.checks]}

    def __str__(self) -> str:
        rows = [f"{check.status:7}  {check.name:10}  {check.detail}" for check in self.checks]
        end = f"FAILED: {self.failed}" if self.failed else "nothing failed"
        return "\n".join([self.target, *rows, end])


@dataclass(frozen=True, kw_only=True)
class _Claim:
    """What a weight's description states."""

    model: Description
    top1: float | None = None
    images: int | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    """the settings of the training that measured it"""


def verify(target: str, *, data: DataConfig | None = None) -> VerificationReport:
    """Check a weight against its description; checks that do not apply are reported as "skipped".

    * sha256: the file has the sha256 that hub_configs/ states; it is always hashed again.
    * loads: a safetensors file with exactly the architecture's tensors and finite values.
    * state_dict, parameters, flops: names, shapes and dtypes, number of values, and operations for one image
      (`torch.utils.flop_counter`, eval mode) are those of the vanilla timm model of the same arguments.
    * graph: `torch.export` of both in eval mode gives the same graph, node for node.
    * top1: if `data` is given, the top-1 on it differs from the stated one by at most `TOP1_TOLERANCE` points or one
      image, whichever is more.

    Args:
        target: A name, folder or repository, as `ssia_zoo.models.loading.load_model` takes it.
        data: The data of the stated top-1. Splits and columns that it leaves open are those of the training.

    Raises:
        ConfigError: If there is no such model.
        DataError: If the data cannot be read.
        HubError: If the weight is not in the cache, and cannot be downloaded.
    """
    with torch.random.fork_rng(devices=[]):  # building models would change the caller's random state
        return _verify(target, data)


def _verify(target: str, data: DataConfig | None) -> VerificationReport:
    found: list[Check] = []
    try:
        source = timm_name(target)
        found.append(_check_sha256(source))
        model = create_checked(source)
        claim = _claim(source)
    except WeightError as error:  # a result, not an error
        failed = "sha256" if not found and isinstance(error, HashError) else "loads"
        return _report(target, [*found, Check(failed, "failed", one_line(error))], "it does not load")
    size = claim.model.input_size or model.pretrained_cfg["input_size"]
    described = asdict(replace(claim.model, num_classes=model.num_classes, input_size=tuple(size)))
    found.append(Check("loads", "passed", "a safetensors file with every tensor of the architecture", described))
    found += compare_with_vanilla(model, claim.model)
    if data is not None:
        found.append(_check_top1(model, claim, data))
    return _report(target, found, "no data was given")


def _report(target: str, found: list[Check], reason: str) -> VerificationReport:
    known = {check.name: check for check in found}
    return VerificationReport(target, tuple(known.get(name, Check(name, "skipped", reason)) for name in CHECKS))


# --- The file ---------------------------------------------------------------------------------------------------------


def _check_sha256(source: str) -> Check:
    if weight := published_weight(source):
        expected = str(weight.sha256 if weight.file else weight.repo_sha256)
        actual = file_sha256(weight_path(weight))
        if actual != expected:  # changed after it was verified, with the same size and times
            return Check("sha256", "failed", f"{actual}, expected {expected}")
        return Check("sha256", "passed", f"{actual}, as stated in hub_configs/{weight.name}.json")
    if not source.startswith("local-dir:"):
        return Check("sha256", "skipped", "not a weight of hub_configs/: no published sha256")
    folder = Path(source.removeprefix("local-dir:"))
    actual = file_sha256(folder / WEIGHTS)
    for weight in weights().values():
        if weight.revision == folder.name and actual != weight.repo_sha256:  # the folder is named after the commit
            return Check("sha256", "failed", f"{actual}, expected {weight.repo_sha256} ({weight.name})")
        if actual in (weight.sha256, weight.repo_sha256):
            return Check("sha256", "passed", f"{actual}, as stated in hub_configs/{weight.name}.json")
    return Check("sha256", "skipped", f"{actual}; no published sha256")


def _claim(source: str) -> _Claim:
    if weight := published_weight(source):
        top1, images = weight.metrics.top1, weight.metrics.images
        model = Description(weight.architecture, num_classes=weight.num_classes, input_size=weight.input_size)
        return _Claim(model=model, top1=top1, images=images, training=weight.training)
    if not source.startswith("local-dir:"):
        return _Claim(model=Description(vanilla_architecture(source)))
    config_path = Path(source.removeprefix("local-dir:")) / "config.json"
    described = read_model_config(config_path)
    run = _mapping(described.get("ssia"))
    metrics = _mapping(run.get("metrics"))
    size = described["pretrained_cfg"].get("input_size")
    model = Description(
        vanilla_architecture(described["architecture"]),
        num_classes=described["num_classes"],
        input_size=(size[0], size[1], size[2]) if size else None,
        model_args=described.get("model_args") or {},
    )
    return _Claim(
        model=model,
        top1=_number(metrics.get("top1"), float),
        images=_number(run.get("evaluated_images"), int),
        training=_mapping(run.get("training")),
    )


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any, kind: type) -> Any:
    """Return a stated number, or None if it is not a valid one."""
    return kind(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9 else None


# --- The accuracy -----------------------------------------------------------------------------------------------------


def _as_in_training(data: DataConfig, training: Mapping[str, Any]) -> DataConfig:
    """Return the data with the splits and columns of the training where it leaves them open."""
    names = ["train_split", "image_column", "label_column"]
    if data.eval_split is None and not data.holdout:
        names += ["eval_split", "holdout"]
    missing = {name: training[name] for name in names if training.get(name) and not getattr(data, name)}
    return replace(data, **missing)


def _check_top1(model: TimmModel, claim: _Claim, data: DataConfig) -> Check:
    data = _as_in_training(data, claim.training)
    try:
        result = validate(model, data)
    except ClassesError as error:
        return Check("top1", "failed", one_line(error))
    if "top1" not in result:
        return Check("top1", "skipped", f"several labels an image: {describe(result)}")
    measured, images = result["top1"], int(result["images"])
    figure = f"measured {measured:.2f} % of {images} images"
    value = {"dataset": public_name(data.dataset), "images": images, "top1": measured}
    if data.eval_split is not None or data.holdout:
        value["split"] = data.eval_split or f"holdout {data.holdout:g}"
    if claim.top1 is None:
        return Check("top1", "skipped", f"{figure}; the weight states no top-1", value)
    stated = f"stated {claim.top1:.2f} %"
    if claim.images is not None and claim.images != images:
        return Check("top1", "failed", f"{figure}; {stated} of {claim.images} images: use the same data", value)
    tolerance = allowed_difference(images)
    status: Status = "passed" if abs(measured - claim.top1) <= tolerance else "failed"
    return Check("top1", status, f"{figure}, {stated}; allowed difference: {tolerance:.2f} points", value)


def allowed_difference(images: int) -> float:
    """Return by how many points a recomputed top-1 may differ from the stated one."""
    return max(TOP1_TOLERANCE, 100 / images)
