"""Model FLOPs utilization (MFU): the FLOPs that training needs, as a share of what the GPU can do."""

from __future__ import annotations

import logging
from contextlib import suppress
from copy import deepcopy
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from ssia_zoo.errors import one_line
from ssia_zoo.models.features import TimmModel
from ssia_zoo.training.config import TrainConfig

_log = logging.getLogger(__name__)


class Peak(NamedTuple):
    """Dense peak of a GPU in TFLOP/s, without sparsity; None where NVIDIA states none."""

    half: float
    """bf16 and fp16 on tensor cores"""
    tf32: float | None
    float32: float


PEAKS = {
    "H100 PCIe": Peak(756, 378, 51),  # NVIDIA H100 Tensor Core GPU Architecture, V1.04, table 2
    "H100 NVL": Peak(835, 417, 60),  # H100 data sheet, which states twice as much, with sparsity
    "H100": Peak(989.4, 494.7, 66.9),  # SXM5; as H100 PCIe
    "H200": Peak(989, 494, 67),  # H200 data sheet, which states twice as much, with sparsity
    "A100": Peak(312, 156, 19.5),  # NVIDIA A100 Tensor Core GPU Architecture, table 1
    "L40S": Peak(362, 183, 91.6),  # L40S data sheet
    "L4": Peak(121, 60, 30.3),  # L4 data sheet, which states twice as much, with sparsity
    "T4": Peak(65, None, 8.1),  # NVIDIA T4 data sheet; fp16 only
}
"""By words of the name that torch.cuda.get_device_name returns; the first that fits counts."""


def peak_flops(config: TrainConfig, device: torch.device) -> float | None:
    """Return the device's FLOP/s at the run's precision, or None if unknown."""
    if device.type != "cuda":
        return None
    return named_peak(torch.cuda.get_device_name(device), config)


def named_peak(device: str, config: TrainConfig) -> float | None:
    """Return the FLOP/s of a device of this name at the run's precision, or None if unknown."""
    words = f" {device.replace('-', ' ')} "
    peak = next((peak for name, peak in PEAKS.items() if f" {name} " in words), None)
    if peak is None:
        return None
    if config.mixed_precision in ("bf16", "fp16"):
        return 1e12 * peak.half
    return 1e12 * (peak.tf32 if config.tf32 and peak.tf32 is not None else peak.float32)


def training_flops(model: TimmModel, input_size: tuple[int, int, int]) -> int | None:
    """Return the FLOPs of a forward and backward pass for one image, or None if they cannot be counted.

    Counted are the model's matrix products and convolutions, as torch's FlopCounterMode does; neither training-only
    heads nor what gradient checkpointing computes again. Computes nothing: the model is copied to the meta device.
    """
    copy = deepcopy(model).to("meta").train()
    with suppress(AttributeError, AssertionError):  # models without gradient checkpointing
        copy.set_grad_checkpointing(False)
    counter = FlopCounterMode(display=False)
    images = 2  # BatchNorm at one position needs more than one image
    try:
        with counter:
            copy(torch.empty(images, *input_size, device="meta")).sum().backward()
    except Exception as error:  # models may do anything
        _log.info("MFU is not recorded, as the model's FLOPs cannot be counted: %s", one_line(error))
        return None
    return counter.get_total_flops() // images
