"""SSIA's head and the losses that rivals are made of, once more in numpy, from their formulas."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray


def array(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()


def log_softmax(z: Array) -> Array:
    shifted = z - z.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def softmax(z: Array) -> Array:
    return np.exp(log_softmax(z))


def cross_entropy(z: Array, target: Array) -> float:
    """Of logits with distributions, or with labels."""
    chosen = np.eye(z.shape[1])[target] if target.ndim == 1 else target
    return float(-(chosen * log_softmax(z)).sum(axis=1).mean())


def divergence(p: Array, log_q: Array) -> float:
    """Mean of KL(p || q) over images."""
    return float((p * (np.log(p) - log_q)).sum(axis=1).mean())


def head(module: Any, feature: Tensor) -> tuple[Array, Array]:
    """Logits of a head on a map of even sides, and what its last linear map sees."""
    x = array(feature)
    batch, channels, height, width = x.shape
    x = x.reshape(batch, channels, 2, height // 2, 2, width // 2).mean(axis=(3, 5)).reshape(batch, channels, 4)
    x = np.einsum("oc,bcp->bpo", array(module.project.weight), x) + array(module.project.bias)
    x = (x - x.mean(axis=2, keepdims=True)) / np.sqrt(x.var(axis=2, keepdims=True) + module.norm.eps)
    x = x * array(module.norm.weight) + array(module.norm.bias)
    x = x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    seen = x.mean(axis=1)
    return seen @ array(module.predict.weight).T + array(module.predict.bias), seen


SHAPES = [(3, 8, 4), (4, 4, 4), (5, 2, 2)]
CLASSES = 6


def inputs(seed: int = 0, batch: int = 3, dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], Tensor, Tensor]:
    """Features, logits, labels."""
    generator = torch.Generator().manual_seed(seed)
    features = [torch.randn(batch, *shape, generator=generator).to(dtype) for shape in SHAPES]
    logits = torch.randn(batch, CLASSES, generator=generator).to(dtype)
    return features, logits, torch.randint(CLASSES, (batch,), generator=generator)
