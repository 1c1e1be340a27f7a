"""Convolutions of small maps as matrix products, which a CPU does faster; a network's results are the same.

oneDNN's float32 convolutions are slow where a map has few positions: at 32x32 pixels, ResNet-18 spends more than half
of a training step on the weight gradients of 3x3 convolutions whose maps have one. docs/speed.md has the figures.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SMALL = 2  # positions a side
_SMALL_STRIDED = 16  # the same, of what a 1x1 convolution with a stride takes


def multiply_small_maps(model: nn.Module) -> None:
    """Let a model's 1x1 and 3x3 convolutions of small maps run as matrix products.

    Small is at most 2x2, and 16x16 for 1x1 convolutions with a stride.

    Parameters, state_dict and the modules' classes stay as they are; results differ by rounding. Meant for float32
    on a CPU.
    """
    for module in model.modules():
        if type(module) is not nn.Conv2d or module.groups != 1 or module.dilation != (1, 1):
            continue
        form = (module.kernel_size, module.stride, module.padding)
        if form in (((1, 1), (1, 1), (0, 0)), ((1, 1), (2, 2), (0, 0))):
            module._conv_forward = partial(_pointwise, module.stride[0])  # type: ignore[method-assign]
        elif form in (((3, 3), (1, 1), (1, 1)), ((3, 3), (2, 2), (1, 1))) and module.padding_mode == "zeros":
            module._conv_forward = partial(_three_by_three, module.stride[0])  # type: ignore[method-assign]


def _pointwise(stride: int, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if max(x.shape[2:]) > (_SMALL if stride == 1 else _SMALL_STRIDED):
        return F.conv2d(x, weight, bias, stride)
    x = x[:, :, ::stride, ::stride]
    return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)


def _three_by_three(stride: int, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Multiply by one matrix from all input positions to all output positions: none is padding, as in an unfolding."""
    height, width = x.shape[2:]
    if max(height, width) > _SMALL:
        return F.conv2d(x, weight, bias, stride, padding=1)
    rows, columns = range(0, height, stride), range(0, width, stride)
    taps = [weight[:, :, 1 - i : 1 - i + height, 1 - j : 1 - j + width] for i in rows for j in columns]
    matrix = torch.cat([tap.permute(0, 2, 3, 1).flatten(1) for tap in taps])  # [H'*W'*C', H*W*C]
    y = F.linear(x.permute(0, 2, 3, 1).flatten(1), matrix, None if bias is None else bias.repeat(len(taps)))
    return y.view(len(x), len(rows), len(columns), -1).permute(0, 3, 1, 2)
