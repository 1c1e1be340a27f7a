"""Verify a weight: that it is the published file, a vanilla timm model, and reaches the stated accuracy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from ssia_zoo.data import DataConfig
from ssia_zoo.errors import ClassesError, HashError, WeightError, one_line
from ssia_zoo.evaluation.validate import validate
from ssia_zoo.hub.files import WEIGHTS, read_model_config
from ssia_zoo.hub.hashes import file_sha256
from ssia_zoo.models.features import TimmModel, evaluating
from ssia_zoo.models.loading import create_checked, timm_name
from ssia_zoo.models.metric_names import describe
from ssia_zoo.models.registry import (
    architecture_cfg,
    published_weight,
    vanilla_architecture,
    weight_path,
    weights,
)

Status = Literal["passed", "failed", "skipped"]

CHECKS = ("sha256", "loads", "state_dict", "parameters", "flops", "graph", "top1")
"""Names of the checks, in the order of a report."""

TOP1_TOLERANCE = 0.3
"""Allowed difference of a recomputed top-1, in points: rounding differs between machines."""


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    name: str
    status: Status
    detail: str


@dataclass(frozen=True)
class VerificationReport:
    """The results of all checks of a weight."""

    target: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether no check failed; skipped checks do not count."""
        return not any(check.status == "failed" for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: "target", "ok", and "checks" with "name", "status" and "detail"."""
        return {"target": self.target, "ok": self.ok, "checks": [asdict(check) for check in self.checks]}

    def __str__(self) -> str:
        rows = [f"{check.status:7}  {check.name:10}  {check.detail}" for check in self.checks]
        failed = [check.name for check in self.checks if check.status == "failed"]
        end = f"FAILED: {', '.join(failed)}" if failed else "nothing failed"
        return "\n".join([self.target, *rows, end])


@dataclass(frozen=True)
class _Claim:
    """What a weight's description states."""

    architecture: str
    num_classes: int | None
    input_size: tuple[int, int, int] | None
    model_args: dict[str, Any]
    top1: float | None = None
    images: int | None = None


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
        data: The data of the stated top-1.

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
    found.append(Check("loads", "passed", "a safetensors file with every tensor of the architecture"))
    vanilla = _vanilla(claim).eval()
    size = tuple(claim.input_size or model.pretrained_cfg["input_size"])
    with evaluating(model):
        found.append(_answer("state_dict", lambda: _compare_state(model, vanilla, claim)))
        found.append(_answer("parameters", lambda: _compare_numbers("parameters", _parameters, model, vanilla)))
        found.append(_answer("flops", lambda: _compare_numbers("FLOPs", lambda m: _flops(m, size), model, vanilla)))
        found.append(_answer("graph", lambda: _compare_graphs(model, vanilla, size)))
    if data is not None:
        found.append(_check_top1(model, claim, data))
    return _report(target, found, "no data was given")


def _report(target: str, found: list[Check], reason: str) -> VerificationReport:
    known = {check.name: check for check in found}
    return VerificationReport(target, tuple(known.get(name, Check(name, "skipped", reason)) for name in CHECKS))


def _answer(name: str, check: Callable[[], tuple[Status, str]]) -> Check:
    try:
        return Check(name, *check())
    except Exception as error:  # models and torch.export raise any kind
        return Check(name, "failed", f"cannot be compared: {type(error).__name__}: {one_line(error, 300)}")


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
        return _Claim(weight.architecture, weight.num_classes, weight.input_size, {}, top1, images)
    if not source.startswith("local-dir:"):
        return _Claim(vanilla_architecture(source), None, None, {})
    config_path = Path(source.removeprefix("local-dir:")) / "config.json"
    described = read_model_config(config_path)
    run = _mapping(described.get("ssia"))
    metrics = _mapping(run.get("metrics"))
    size = described["pretrained_cfg"].get("input_size")
    return _Claim(
        vanilla_architecture(described["architecture"]),
        described["num_classes"],
        (size[0], size[1], size[2]) if size else None,
        described.get("model_args") or {},
        _number(metrics.get("top1"), float),
        _number(run.get("evaluated_images"), int),
    )


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any, kind: type) -> Any:
    """Return a stated number, or None if it is not a valid one."""
    return kind(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9 else None


# --- The model --------------------------------------------------------------------------------------------------------


def _vanilla(claim: _Claim) -> TimmModel:
    arguments = {**claim.model_args}
    if claim.num_classes is not None:
        arguments["num_classes"] = claim.num_classes
    if claim.input_size is not None:
        arguments["pretrained_cfg"] = architecture_cfg(claim.architecture, claim.input_size)
    return timm.create_model(claim.architecture, pretrained=False, **arguments)


def _compare_state(model: TimmModel, vanilla: TimmModel, claim: _Claim) -> tuple[Status, str]:
    ours, theirs = (
        {name: (tuple(tensor.shape), str(tensor.dtype)) for name, tensor in m.state_dict().items()}
        for m in (model, vanilla)
    )
    arguments = f" with {claim.model_args}" if claim.model_args else ""
    if ours == theirs:
        return "passed", f"{len(ours)} tensors: names, shapes and dtypes of vanilla {claim.architecture}{arguments}"
    name = min(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    return "failed", f"{name} is {ours.get(name, 'missing')}, vanilla has {theirs.get(name, 'none')}"


def _compare_numbers(
    what: str, count: Callable[[TimmModel], int], model: TimmModel, vanilla: TimmModel
) -> tuple[Status, str]:
    ours, theirs = count(model), count(vanilla)
    if ours == theirs:
        return "passed", f"{ours:,} {what}, as vanilla"
    return "failed", f"{ours:,} {what}, vanilla has {theirs:,}"


def _parameters(model: TimmModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _flops(model: TimmModel, size: tuple[int, ...]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, *size))
    return int(counter.get_total_flops())


def _compare_graphs(model: TimmModel, vanilla: TimmModel, size: tuple[int, ...]) -> tuple[Status, str]:
    try:
        theirs = _graph(vanilla, size)
    except Exception as error:  # torch.export does not support every architecture
        return "skipped", f"torch.export does not support the vanilla model: {type(error).__name__}"
    ours = _graph(model, size)
    if ours == theirs:
        return "passed", f"{len(ours)} nodes, each as in vanilla"
    pairs = zip([*ours, "nothing"], [*theirs, "nothing"], strict=False)
    at, (mine, other) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
    return "failed", f"node {at} of {len(ours)} is {mine[:120]}, vanilla has {other[:120]} ({len(theirs)} nodes)"


def _graph(model: TimmModel, size: tuple[int, ...]) -> list[str]:
    """Return the exported graph, one line per node: operation, inputs by number, shape and dtype of the output."""
    with torch.no_grad():
        program = torch.export.export(model, (torch.zeros(1, *size),))
    inputs = {spec.arg.name: f"{spec.kind.name} {spec.target}" for spec in program.graph_signature.input_specs}
    numbers: dict[torch.fx.Node, str] = {}
    lines = []
    for number, node in enumerate(program.graph.nodes):
        numbers[node] = f"%{number}"
        arguments = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: _Named(numbers[n]))
        value = node.meta.get("val")
        result = f"{tuple(value.shape)} {value.dtype}" if isinstance(value, torch.Tensor) else type(value).__name__
        lines.append(f"{inputs.get(node.name, node.target)} {arguments} -> {result}")
    return lines


class _Named(str):
    """A node's number, printed without quotation marks."""

    def __repr__(self) -> str:
        return str(self)


# --- The accuracy -----------------------------------------------------------------------------------------------------


def _check_top1(model: TimmModel, claim: _Claim, data: DataConfig) -> Check:
    try:
        result = validate(model, data)
    except ClassesError as error:
        return Check("top1", "failed", one_line(error))
    if "top1" not in result:
        return Check("top1", "skipped", f"several labels an image: {describe(result)}")
    measured, images = result["top1"], int(result["images"])
    figure = f"{measured:.2f} % of {images} images"
    if claim.top1 is None:
        return Check("top1", "skipped", f"measured {figure}; the weight states no top-1")
    if claim.images is not None and claim.images != images:
        return Check(
            "top1",
            "failed",
            f"measured {figure}; stated {claim.top1:.2f} % of {claim.images} images: use the same data",
        )
    tolerance = max(TOP1_TOLERANCE, 100 / images)
    status: Status = "passed" if abs(measured - claim.top1) <= tolerance else "failed"
    return Check(
        "top1", status, f"measured {figure}, stated {claim.top1:.2f} %; allowed difference: {tolerance:.2f} points"
    )
