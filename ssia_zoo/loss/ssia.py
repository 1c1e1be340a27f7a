"""The SSIA loss: signals of a network's own higher layers guide its lower layers, in training only.

This is a **reconstruction from the abstract** of "Self-Supervised Implicit Attention: Guided Attention by The Model
Itself" (arXiv 2206.07434): "supervisory signals are generated from higher layers and guide lower layers' parameter
updates". The paper's formulas were not available; the forms below are ours, and what they gain is measured.

Notation: F_1..F_K are the last maps (NCHW) of a network's stages, z_K its logits, sg the stop-gradient. A pair
(l, h) lets stage h supervise stage l through a small training-only head on F_l:

- semantic: the class distribution softmax(sg z_K / T), predicted by softmax(head_l(F_l) / T); T^2 * KL divergence, the
  form and scale of Hinton et al., "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531), eq. 4;
- channel: GAP(sg F_h), normalised per image over channels (LayerNorm without affine); mean squared error;
- spatial: softmax over positions of the standardised energy mean_c (sg F_h)^2; KL divergence. The energy map is the
  activation attention of Zagoruyko & Komodakis, "Paying More Attention to Attention" (arXiv 1612.03928), section 3.1.

No signal or head uses statistics across images, so the loss is the same under gradient accumulation and data
parallelism. The loss is self-supervised: it never sees a label, unless `labels` lets the semantic heads learn them too.
That is no longer SSIA but SSIA + DSN (Lee et al., arXiv 1409.5185), near BYOT (Zhang et al., arXiv 1905.08094) without
its hint, and is called so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssia_zoo.errors import ConfigError
from ssia_zoo.loss.base import (
    AuxiliaryLoss,
    LabelLoss,
    Schedule,
    StageShape,
    at_least_float32,
    check_schedule,
    scheduled,
)
from ssia_zoo.loss.heads import Head, even_grid
from ssia_zoo.loss.memory import or_present

_EPS = 1e-6


@dataclass(frozen=True)
class SSIAConfig:
    """Every choice of the SSIA loss.

    Raises:
        ConfigError: If a value is out of range, on construction.
    """

    pairs: Literal["deepest", "adjacent", "upper"] = "deepest"
    """who supervises whom: the deepest stage all; each stage the one below it (adjacent); the deepest stage the one
    below it alone (upper)"""
    semantic: float = 1.0
    """weight of the semantic signal (class distribution of the final logits); 0 turns it off"""
    channel: float = 0.0
    """weight of the channel signal (pooled features of the higher stage); 0 turns it off"""
    spatial: float = 0.0
    """weight of the spatial signal (attention map of the higher stage); 0 turns it off"""
    labels: float = 0.0
    """weight of the task's own loss on the semantic heads: above 0 this is SSIA + DSN, no longer self-supervised"""
    handover: bool = False
    """whether the labels give way to the network's own signal over training: with t the share of it done, the labels
    count (1 - share * t) times, the semantic signal share * t times"""
    share: float = 1.0
    """with handover or top: what the network's own signal counts at the end of training, above 0 and up to 1"""
    supervisor: Literal["now", "memory"] = "now"
    """which predictions of the network the semantic heads learn from: those of the present step (now), or the average
    of its earlier ones for the same image (memory), which costs 2 bytes an image and class and no forward pass"""
    momentum: float = 0.7
    """with supervisor memory: how much of the average stays when a new prediction comes in, from 0 to below 1"""
    top: bool = False
    """with supervisor memory: whether the final logits learn from it too; with t the share of training done, the task
    loss counts (1 - share * t) times, the cross-entropy to the memory share * t times"""
    temperature: float = 3.0
    """temperature T of the semantic signal"""
    pooling: Literal["average", "attention", "none"] = "average"
    """how the semantic head pools positions: evenly, by the higher stage's spatial attention, or not at all (none), so
    that each cell of its grid, at most 2x2, predicts by itself"""
    hidden: int = 256
    """width of the training-only heads, in channels"""
    weight: float = 1.0
    """lambda, the weight of the whole SSIA loss beside the task loss"""
    schedule: Schedule = "constant"
    """lambda over training: constant; warmup: rises linearly, then stays; cosine: after a warm-up, falls to 0"""
    warmup: float = 0.1
    """share of training over which lambda rises linearly from 0, for the schedules warmup and cosine"""

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"ssia.{name} is {getattr(self, name)!r}; expected one of {', '.join(allowed)}")
        check_schedule("ssia", self.weight, self.schedule, self.warmup)
        for name in ("semantic", "channel", "spatial", "labels"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"ssia.{name} is {value}; expected a finite number >= 0")
        if self.semantic + self.channel + self.spatial == 0:
            raise ConfigError(
                "ssia has no signal: set at least one of ssia.semantic, ssia.channel, ssia.spatial above 0"
            )
        if self.labels > 0 and (self.semantic == 0 or self.pooling == "none"):
            raise ConfigError(
                f"ssia.labels is {self.labels}, but it is the pooled semantic heads that learn labels; set "
                "ssia.semantic above 0 and ssia.pooling to average or attention"
            )
        if self.handover and self.labels == 0:
            raise ConfigError(
                "ssia.handover is set, but ssia.labels is 0; set ssia.labels above 0, such as 1, or leave it out"
            )
        if self.top and self.supervisor == "now":
            raise ConfigError(
                "ssia.top is set, but ssia.supervisor is now, from which the top learns nothing; set "
                "ssia.supervisor=memory, or leave out ssia.top"
            )
        if not 0 < self.share <= 1:
            raise ConfigError(f"ssia.share is {self.share}; expected a share above 0 and up to 1")
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"ssia.momentum is {self.momentum}; expected 0 or more and below 1")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ConfigError(f"ssia.temperature is {self.temperature}; expected a finite number > 0")
        if self.hidden < 1:
            raise ConfigError(f"ssia.hidden is {self.hidden}; expected at least 1 channel")

    def weight_at(self, progress: float) -> float:
        """Lambda at a point of training.

        Args:
            progress: Share of optimizer steps done, from 0 to 1.
        """
        return scheduled(self.weight, self.schedule, self.warmup, progress)


_CHOICES = {
    "pairs": ("deepest", "adjacent", "upper"),
    "pooling": ("average", "attention", "none"),
    "supervisor": ("now", "memory"),
}


def spatial_attention(feature: Tensor) -> Tensor:
    """Where a feature map is active: softmax over positions of the standardised energy mean_c F^2.

    Args:
        feature: Feature map [B, C, H, W].

    Returns:
        Attention [B, H * W] in at least float32; each row sums to 1. Uniform where the energy is.
    """
    energy = at_least_float32(feature).square().mean(dim=1).flatten(1)
    centred = energy - energy.mean(dim=1, keepdim=True)
    deviation = centred.square().mean(dim=1, keepdim=True).sqrt()
    return torch.softmax(centred / (deviation + _EPS), dim=1)


def channel_signal(feature: Tensor) -> Tensor:
    """What a feature map sees: its average over positions, normalised per image over channels.

    Args:
        feature: Feature map [B, C, H, W].

    Returns:
        Signal [B, C] in at least float32, of mean 0 and variance 1 per image.
    """
    pooled = at_least_float32(feature).mean(dim=(2, 3))
    return F.layer_norm(pooled, pooled.shape[1:], eps=_EPS)


class SSIALoss(AuxiliaryLoss):
    """The SSIA loss over the stages of one network; holds the training-only heads.

    A pair whose higher stage has a single position has no spatial signal and skips it.

    Args:
        shapes: Channels, height, width of each stage's map at the training size, lowest stage first; K >= 2 stages.
        num_classes: Width of the logits.
        config: Choices.

    Raises:
        ConfigError: If there are fewer than two stages, a shape or class count is not positive, or no pair has a
            signal.

    Examples:
        >>> import torch
        >>> loss = SSIALoss([(16, 8, 8), (32, 4, 4)], num_classes=10)
        >>> features = [torch.randn(2, 16, 8, 8), torch.randn(2, 32, 4, 4)]
        >>> sorted(loss(features, torch.randn(2, 10)))
        ['semantic', 'ssia']
    """

    name = "ssia"
    progress: Tensor

    def __init__(self, shapes: Sequence[StageShape], num_classes: int, config: SSIAConfig | None = None) -> None:
        super().__init__(shapes, num_classes)
        self.config = config or SSIAConfig()
        self.uses_labels = self.config.labels > 0
        deepest = len(self.shapes) - 1
        self.pairs = {
            "deepest": [(low, deepest) for low in range(deepest)],
            "adjacent": [(low, low + 1) for low in range(deepest)],
            "upper": [(deepest - 1, deepest)],
        }[self.config.pairs]
        with torch.random.fork_rng(devices=[]):
            self.semantic = nn.ModuleList(self._head(low, num_classes) for low, _ in self._active("semantic"))
            self.channel = nn.ModuleList(self._head(low, self.shapes[high][0]) for low, high in self._active("channel"))
            self.spatial = nn.ModuleList(self._head(low, 1, bias=False) for low, _ in self._active("spatial"))
        if self.config.handover:  # a tensor, so that torch.compile does not compile each step anew
            self.register_buffer("progress", torch.zeros(()), persistent=False)
        if not (self.semantic or self.channel or self.spatial):
            raise ConfigError(
                f"no pair has a spatial signal: every supervising stage has one position (shapes {self.shapes}); "
                "use larger images, ssia.pairs=adjacent, or another signal"
            )

    def set_progress(self, progress: float) -> None:
        """Tell how far the labels have given way; only `handover` asks."""
        if self.config.handover:
            self.progress.fill_(progress)

    def _active(self, signal: str) -> list[tuple[int, int]]:
        """Pairs that carry a signal, at the sizes known on construction."""
        if getattr(self.config, signal) == 0:
            return []
        if signal == "spatial":
            return [pair for pair in self.pairs if self.shapes[pair[1]][1] * self.shapes[pair[1]][2] > 1]
        return self.pairs

    def _head(self, low: int, out_features: int, bias: bool = True) -> Head:
        return Head(self.shapes[low][0], self.config.hidden, out_features, bias)

    def forward(
        self,
        features: Sequence[Tensor],
        logits: Tensor,
        label_loss: LabelLoss | None = None,
        remembered: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute the loss; gradients reach the lower stages and the heads, never the supervising features.

        Args:
            features: The stages' maps [B, C, H, W], lowest first, with the channels given on construction.
            logits: Final logits [B, num_classes].
            label_loss: The task's criterion on this batch's targets; only with `labels` above 0.
            remembered: The images' average earlier predictions [B, num_classes], rows of zeros where there are none
                yet; only with supervisor memory. Without it, and in rows of zeros, the present ones stand in.

        Returns:
            Scalars in at least float32: each active signal's mean over its pairs, and "ssia", their weighted sum
            (without lambda).
        """
        with torch.autocast(logits.device.type, enabled=False):
            terms: dict[str, Tensor] = {}
            if self.semantic:
                predictions = self._predict_classes(features)
                terms["semantic"] = self._semantic(predictions, self._target(logits.detach(), remembered))
                if self.uses_labels:
                    if label_loss is None:
                        raise ConfigError("ssia.labels is above 0, but the loss was called without a label_loss")
                    terms["labels"] = torch.stack([label_loss(prediction) for prediction in predictions]).mean()
            if self.channel:
                terms["channel"] = self._channel(features)
            if self.spatial:
                terms["spatial"] = self._spatial(features)
            weights = {name: getattr(self.config, name) for name in terms}
            if self.config.handover:
                given = self.config.share * self.progress
                weights["semantic"] *= given
                weights["labels"] *= 1 - given
            terms["ssia"] = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        return terms

    def _predict_classes(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Each semantic head's logits: [B, num_classes], or [B, positions, num_classes] without pooling."""
        predictions = []
        for head, (low, high) in zip(self.semantic, self._active("semantic"), strict=True):
            if self.config.pooling == "attention":
                grid, pool = _size(features[high]), spatial_attention(features[high].detach())
            else:
                grid, pool = even_grid(features[low])
            predictions.append(head(features[low], grid, None if self.config.pooling == "none" else pool))
        return predictions

    def _target(self, logits: Tensor, remembered: Tensor | None) -> Tensor:
        """Log-probabilities [B, num_classes] that the semantic heads learn, at the temperature."""
        if remembered is None:
            source = at_least_float32(logits)
        else:
            source = or_present(remembered, logits).clamp_min(_EPS).log()
        return torch.log_softmax(source / self.config.temperature, dim=1)

    def _semantic(self, predictions: Sequence[Tensor], target: Tensor) -> Tensor:
        temperature = self.config.temperature
        losses = []
        for prediction in predictions:
            wanted = target if prediction.dim() == 2 else target[:, None].expand_as(prediction).flatten(0, 1)
            log_p = torch.log_softmax(prediction.flatten(0, -2) / temperature, dim=1)
            losses.append(F.kl_div(log_p, wanted, reduction="batchmean", log_target=True))
        return temperature**2 * torch.stack(losses).mean()

    def _channel(self, features: Sequence[Tensor]) -> Tensor:
        losses = []
        for head, (low, high) in zip(self.channel, self._active("channel"), strict=True):
            target = channel_signal(features[high].detach())
            grid, pool = even_grid(features[low])
            losses.append(F.mse_loss(head(features[low], grid, pool), target))
        return torch.stack(losses).mean()

    def _spatial(self, features: Sequence[Tensor]) -> Tensor:
        losses = []
        for head, (low, high) in zip(self.spatial, self._active("spatial"), strict=True):
            target = spatial_attention(features[high].detach())
            scores = head(features[low], _size(features[high]), None).squeeze(2)
            losses.append(F.kl_div(torch.log_softmax(scores, dim=1), target, reduction="batchmean"))
        return torch.stack(losses).mean()


def _size(feature: Tensor) -> tuple[int, int]:
    return feature.shape[2], feature.shape[3]
