"""Fingerprints of what runs to be compared must share: initial weights, order of the images, the images themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256
from itertools import islice
from typing import Any

import torch
from torch import nn

_ORDER = 10_000  # images of the first epoch whose order counts
_DIGITS = 16


def fingerprint(model: nn.Module, order: Iterable[Any] | None, data: Mapping[str, Any]) -> dict[str, str]:
    """Hash a run's start, so that two runs can be checked to have begun alike.

    Args:
        model: The model before its first step, without training-only heads.
        order: The sampler of the training images at epoch 0; None if it cannot be read ahead, as of a stream.
        data: `ssia_zoo.data.data_identity`.

    Returns:
        "initial_weights", "train_images", "eval_images" and, if there is an order, "data_order": 16 hexadecimal digits.
    """
    found = {
        "initial_weights": _weights_digest(model),
        "train_images": data["train_digest"][:_DIGITS],
        "eval_images": data["eval_digest"][:_DIGITS],
    }
    if order is not None:
        found["data_order"] = sha256(repr(list(islice(order, _ORDER))).encode()).hexdigest()[:_DIGITS]
    return found


def _weights_digest(model: nn.Module) -> str:
    digest = sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:_DIGITS]
