"""Say whether a weight is what it claims to be: the vanilla model, the published file, the stated accuracy."""

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
from ssia_zoo.models.registry import architecture_cfg, vanilla_architecture, weight_path, weights
from ssia_zoo.models.weight import PublishedWeight

Status = Literal["passed", "failed", "skipped"]

CHECKS = ("sha256", "loads", "state_dict", "parameters", "flops", "graph", "top1")
"""Names of the checks, in the order of a report."""

TOP1_TOLERANCE = 0.3
"""Points of top-1 by which a recomputed figure may differ: other machines round otherwise, and images sit on edges."""


@dataclass(frozen=True)
class Check:
    """One question about a weight, and its answer."""

    name: str
    status: Status
    detail: str


@dataclass(frozen=True)
class VerificationReport:
    """What was found about a weight."""

    target: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether no check failed; a check that was skipped has found nothing."""
        return not any(check.status == "failed" for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values: "target", "ok", and "checks" of "name", "status" and "detail"."""
        return {"target": self.target, "ok": self.ok, "checks": [asdict(check) for check in self.checks]}

    def __str__(self) -> str:
        rows = [f"{check.status:7}  {check.name:10}  {check.detail}" for check in self.checks]
        failed = [check.name for check in self.checks if check.status == "failed"]
        end = f"FAILED: {', '.join(failed)}" if failed else "nothing failed"
        return "\n".join([self.target, *rows, end])


@dataclass(frozen=True)
class _Claim:
    """What a weight says of itself."""

    architecture: str
    num_classes: int | None
    input_size: tuple[int, int, int] | None
    model_args: dict[str, Any]
    top1: float | None = None
    images: int | None = None


def verify(target: str, *, data: DataConfig | None = None) -> VerificationReport:
    """Check a weight against what it claims; every check is answered, those that do not apply as "skipped".

    * sha256: the file is the published one, by hub_configs/; always hashed anew.
    * loads: safetensors of exactly the architecture's tensors, with finite values.
    * state_dict, parameters, flops: names, shapes and dtypes, number of values, and operations for one image
      (`torch.utils.flop_counter`, eval mode) are those of the vanilla timm model of the same arguments.
    * graph: `torch.export` of both in eval mode gives the same operations on the same inputs, node for node.
    * top1: with `data`, the stated top-1 is recomputed; it may differ by `TOP1_TOLERANCE` points or by one image,
      whichever is more.

    Args:
        target: A name, folder or repository, as `ssia_zoo.models.loading.load_model` takes it.
        data: The data that the stated top-1 was measured on.

    Raises:
        ConfigError: If there is no such model.
        DataError: If the data cannot be read.
        HubError: If the Hub is out of reach and the weight not in the cache.
    """
    with torch.random.fork_rng(devices=[]):  # building models draws from the caller's random numbers otherwise
        return _verify(target, data)


def _verify(target: str, data: DataConfig | None) -> VerificationReport:
    found: list[Check] = []
    try:
        source = timm_name(target)
        found.append(_check_sha256(source))
        model = create_checked(source)
        claim = _claim(source)
    except WeightError as error:  # whoever asks whether a weight is sound wants an answer, not an error
        failed = "sha256" if not found and isinstance(error, HashError) else "loads"
        return _report(target, [*found, Check(failed, "failed", one_line(error))], "it does not load")
    found.append(Check("loads", "passed", "safetensors only, every tensor of the architecture"))
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
    except Exception as error:  # models and torch.export raise every kind; an answer that cannot be had is no pass
        return Check(name, "failed", f"cannot be compared: {type(error).__name__}: {one_line(error)[:300]}")


# --- The file ---------------------------------------------------------------------------------------------------------


def _published(source: str) -> PublishedWeight | None:
    """The description of a registered weight; None for every other source."""
    if ":" in source:
        return None
    by_default = [c for c in weights().values() if c.default and c.arch_name == source]
    return weights().get(source) or next(iter(by_default), None)


def _check_sha256(source: str) -> Check:
    if config := _published(source):
        expected = str(config.sha256 if config.file else config.repo_sha256)
        actual = file_sha256(weight_path(config))
        if actual != expected:  # changed since it was last found good, and disguised
            return Check("sha256", "failed", f"{actual}, published was {expected}")
        return Check("sha256", "passed", f"{actual}, as hub_configs/{config.name}.json says")
    if not source.startswith("local-dir:"):
        return Check("sha256", "skipped", "not a weight of hub_configs/, which alone publishes a sha256 here")
    folder = Path(source.removeprefix("local-dir:"))
    actual = file_sha256(folder / WEIGHTS)
    for config in weights().values():
        if config.revision == folder.name and actual != config.repo_sha256:  # a repository's folder is its commit
            return Check("sha256", "failed", f"{actual}, published was {config.repo_sha256} ({config.name})")
        if actual in (config.sha256, config.repo_sha256):
            return Check("sha256", "passed", f"{actual}, which is {config.name} of hub_configs/")
    return Check("sha256", "skipped", f"{actual}; hub_configs/ publishes none for it")


def _claim(source: str) -> _Claim:
    if config := _published(source):
        top1, images = config.metrics.top1, config.metrics.images
        return _Claim(config.architecture, config.num_classes, config.input_size, {}, top1, images)
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
    """A stated number, or None for what is none."""
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
    except Exception as error:  # torch.export does not know every architecture: nothing to compare with
        return "skipped", f"torch.export cannot take the vanilla model: {type(error).__name__}"
    ours = _graph(model, size)
    if ours == theirs:
        return "passed", f"{len(ours)} nodes, each as in vanilla"
    pairs = zip([*ours, "nothing"], [*theirs, "nothing"], strict=False)
    at, (mine, other) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
    return "failed", f"node {at} of {len(ours)} is {mine[:120]}, vanilla has {other[:120]} ({len(theirs)} nodes)"


def _graph(model: TimmModel, size: tuple[int, ...]) -> list[str]:
    """The exported graph, a line a node: operation, inputs by number, and the shape and dtype that come out."""
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
    """A node's number, written without quotation marks among other arguments."""

    def __repr__(self) -> str:
        return str(self)


# --- The figure -------------------------------------------------------------------------------------------------------


def _check_top1(model: TimmModel, claim: _Claim, data: DataConfig) -> Check:
    try:
        result = validate(model, data)
    except ClassesError as error:
        return Check("top1", "failed", one_line(error))
    measured, images = result["top1"], int(result["images"])
    figure = f"{measured:.2f} % of {images} images"
    if claim.top1 is None:
        return Check("top1", "skipped", f"measured {figure}; no top-1 is stated for this weight")
    if claim.images is not None and claim.images != images:
        return Check(
            "top1",
            "failed",
            f"measured {figure}; {claim.top1:.2f} % is stated of {claim.images} images: name that data",
        )
    tolerance = max(TOP1_TOLERANCE, 100 / images)
    status: Status = "passed" if abs(measured - claim.top1) <= tolerance else "failed"
    return Check("top1", status, f"measured {figure}, stated is {claim.top1:.2f} %; {tolerance:.2f} points are allowed")
