"""Compare a model with the vanilla timm model of the same arguments: tensors, parameters, FLOPs, exported graph."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from ssia_zoo.errors import one_line
from ssia_zoo.models.features import TimmModel, evaluating
from ssia_zoo.models.registry import architecture_cfg

Status = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    name: str
    status: Status
    detail: str
    value: Any = None
    """What was measured, if anything: a number, or plain values by name."""


@dataclass(frozen=True)
class Description:
    """The arguments of a model, as its configuration states them."""

    architecture: str
    """vanilla timm architecture"""
    num_classes: int | None = None
    """the architecture's default if None"""
    input_size: tuple[int, int, int] | None = None
    """channels, height, width; the architecture's default if None"""
    model_args: dict[str, Any] = field(default_factory=dict)


def compare_with_vanilla(model: TimmModel, description: Description) -> Iterator[Check]:
    """Compare a model in eval mode with a new vanilla one: the checks state_dict, parameters, flops and graph."""
    vanilla = _vanilla(description).eval()
    size = tuple(description.input_size or model.pretrained_cfg["input_size"])
    with evaluating(model):
        yield _answer("state_dict", lambda: _compare_state(model, vanilla, description))
        yield _answer("parameters", lambda: _compare_numbers("parameters", _parameters, model, vanilla))
        yield _answer("flops", lambda: _compare_numbers("FLOPs", lambda m: _flops(m, size), model, vanilla))
        yield _answer("graph", lambda: _compare_graphs(model, vanilla, size))


def _answer(name: str, check: Callable[[], tuple[Status, str, Any]]) -> Check:
    try:
        return Check(name, *check())
    except Exception as error:  # models and torch.export raise any kind
        return Check(name, "failed", f"cannot be compared: {type(error).__name__}: {one_line(error, 300)}")


def _vanilla(description: Description) -> TimmModel:
    arguments = {**description.model_args}
    if description.num_classes is not None:
        arguments["num_classes"] = description.num_classes
    if description.input_size is not None:
        arguments["pretrained_cfg"] = architecture_cfg(description.architecture, description.input_size)
    return timm.create_model(description.architecture, pretrained=False, **arguments)


def _compare_state(model: TimmModel, vanilla: TimmModel, description: Description) -> tuple[Status, str, Any]:
    ours, theirs = (
        {name: (tuple(tensor.shape), str(tensor.dtype)) for name, tensor in m.state_dict().items()}
        for m in (model, vanilla)
    )
    listing = hashlib.sha256(json.dumps(sorted(ours.items())).encode()).hexdigest()
    value = {"tensors": len(ours), "sha256": listing}
    with_args = f" with {description.model_args}" if description.model_args else ""
    if ours == theirs:
        kind = f"vanilla {description.architecture}{with_args}"
        return "passed", f"{len(ours)} tensors: names, shapes and dtypes of {kind}", value
    name = min(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    return "failed", f"{name} is {ours.get(name, 'missing')}, vanilla has {theirs.get(name, 'none')}", value


def _compare_numbers(
    what: str, count: Callable[[TimmModel], int], model: TimmModel, vanilla: TimmModel
) -> tuple[Status, str, int]:
    ours, theirs = count(model), count(vanilla)
    if ours == theirs:
        return "passed", f"{ours:,} {what}, as vanilla", ours
    return "failed", f"{ours:,} {what}, vanilla has {theirs:,}", ours


def _parameters(model: TimmModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _flops(model: TimmModel, size: tuple[int, ...]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, *size))
    return int(counter.get_total_flops())


def _compare_graphs(model: TimmModel, vanilla: TimmModel, size: tuple[int, ...]) -> tuple[Status, str, int | None]:
    try:
        theirs = _graph(vanilla, size)
    except Exception as error:  # torch.export does not support every architecture
        return "skipped", f"torch.export does not support the vanilla model: {type(error).__name__}", None
    ours = _graph(model, size)
    if ours == theirs:
        return "passed", f"{len(ours)} nodes, each as in vanilla", len(ours)
    pairs = zip([*ours, "nothing"], [*theirs, "nothing"], strict=False)
    at, (mine, other) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
    detail = f"node {at} of {len(ours)} is {mine[:120]}, vanilla has {other[:120]} ({len(theirs)} nodes)"
    return "failed", detail, len(ours)


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
