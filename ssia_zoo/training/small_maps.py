"""Convolutions of small maps as matrix products, which a CPU does faster; a network's results are the same.

oneDNN's float32 convolutions are slow where a map has few positions: at 32x32 pixels, ResNet-18 spends more than half
of a training step on the weight gradients of 3x3 convolutions whose maps have one. docs/speed.md has the figures.
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

_SMALL = 2  # positions a side


def multiply_small_maps(model: nn.Module) -> None:
    """Let a model's 1x1 convolutions, and its 3x3 ones on maps of at most 2x2, run as matrix products.

    Parameters, state_dict and the modules' classes stay as they are; results differ by rounding. Meant for float32
    on a CPU.
    """
    for module in model.modules():
        if type(module) is not nn.Conv2d or module.groups != 1 or module.dilation != (1, 1):
            continue
        form = (module.kernel_size, module.stride, module.padding)
        if form == ((1, 1), (1, 1), (0, 0)):
            module._conv_forward = _pointwise  # type: ignore[method-assign,assignment]
        elif form in (((3, 3), (1, 1), (1, 1)), ((3, 3), (2, 2), (1, 1))) and module.padding_mode == "zeros":
            module._conv_forward = partial(_three_by_three, module.stride[0])  # type: ignore[method-assign]


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if max(x.shape[2:]) > _SMALL:
        return F.conv2d(x, weight, bias)
    return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)


def _three_by_three(stride: int, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    height, width = x.shape[2:]
    if max(height, width) > _SMALL:
        return F.conv2d(x, weight, bias, stride, padding=1)
    if height == width == 1:  # the other taps see padding only
        return F.linear(x.flatten(1), weight[:, :, 1, 1], bias)[..., None, None]
    patches = F.pad(x, (1, 1, 1, 1)).unfold(2, 3, stride).unfold(3, 3, stride)  # [B, C, H', W', 3, 3]
    patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(3)
    return F.linear(patches, weight.flatten(1), bias).permute(0, 3, 1, 2)
