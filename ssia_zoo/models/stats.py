"""Count what timm's model cards list: parameters, multiply-accumulates and activations of one image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import timm
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from ssia_zoo.models.features import TimmModel
from ssia_zoo.models.registry import architecture_cfg

_COUNTED = ("convolution", "addmm", "mm", "bmm", "baddbmm")
"""Operators whose outputs are activations, as in fvcore, by which timm counts them."""


@dataclass(frozen=True, kw_only=True)
class ModelStats:
    """Size and cost of a model, for one image in eval mode."""

    parameters: int
    macs: int
    """half of `torch.utils.flop_counter`'s FLOPs"""
    activations: int
    """values that convolutions and matrix products return"""
    input_size: tuple[int, int, int]

    def rows(self) -> list[str]:
        """Return the lines of timm's cards, as a Markdown list."""
        return [
            f"- Params (M): {self.parameters / 1e6:.3g}",
            f"- GMACs: {self.macs / 1e9:.3g}",
            f"- Activations (M): {self.activations / 1e6:.3g}",
            f"- Image size: {self.input_size[1]} x {self.input_size[2]}",
        ]


@cache
def model_stats(architecture: str, num_classes: int, input_size: tuple[int, int, int]) -> ModelStats:
    """Count for a vanilla timm architecture; without memory or computation if it can be built on the meta device."""
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                return _count(_build(architecture, num_classes, input_size), input_size)
        except (RuntimeError, NotImplementedError):  # not every architecture can
            return _count(_build(architecture, num_classes, input_size), input_size)


def _build(architecture: str, num_classes: int, input_size: tuple[int, int, int]) -> TimmModel:
    cfg = architecture_cfg(architecture, input_size)
    return timm.create_model(architecture, pretrained=False, pretrained_cfg=cfg, num_classes=num_classes).eval()


def _count(model: TimmModel, input_size: tuple[int, int, int]) -> ModelStats:
    with FlopCounterMode(display=False) as flops, _Activations() as activations, torch.no_grad():
        model(torch.zeros(1, *input_size))
    return ModelStats(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        macs=int(flops.get_total_flops()) // 2,
        activations=activations.values,
        input_size=input_size,
    )


class _Activations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # of its __init_subclass__
    """Add up the values that the operators in _COUNTED return."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in _COUNTED:
            self.values += result.numel()
        return result
