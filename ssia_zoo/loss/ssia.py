"""The SSIA loss: signals from a network's higher layers guide its lower layers, in training only.

This is a **reconstruction from the abstract** of "Self-Supervised Implicit Attention: Guided Attention by The Model
Itself" (arXiv 2206.07434): "supervisory signals are generated from higher layers and guide lower layers' parameter
updates". The paper's formulas were not available; those below are this project's, and their effect is measured.

Notation: F_1..F_K are the last feature maps (NCHW) of a network's stages, z_K its logits, sg the stop-gradient. In a
pair (l, h), stage h supervises stage l through a small training-only head on F_l:

- semantic: the class distribution softmax(sg z_K / T) is predicted by softmax(head_l(F_l) / T). The loss is T^2 * KL
  divergence, the form and scale of Hinton et al., "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531),
  eq. 4. For several labels an image, each class is its own distribution: sigmoid(sg z_K / T) is predicted by
  sigmoid(head_l(F_l) / T), and the loss is T^2 * the mean over classes of the KL divergence of each.
- channel: GAP(sg F_h), normalized per image over channels (LayerNorm without affine), with mean squared error.
- spatial: softmax over positions of the standardized energy mean_c (sg F_h)^2, with KL divergence. The energy map is
  the activation attention of Zagoruyko & Komodakis, "Paying More Attention to Attention" (arXiv 1612.03928), sec. 3.1.

Neither signals nor heads use statistics across images, so gradient accumulation and data parallelism do not change the
loss. By default the semantic heads learn the labels first, and the network's signal replaces them over training: SSIA +
DSN (Lee et al., arXiv 1409.5185), close to BYOT (Zhang et al., arXiv 1905.08094) without its hint. With `labels` 0 the
loss never sees a label: label-free SSIA, which is self-supervised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssia_zoo.errors import ConfigError
from ssia_zoo.loss.base import AuxiliaryLoss, LabelLoss, Schedule, StageShape, at_least_float32, scheduled
from ssia_zoo.loss.heads import Head, even_grid
from ssia_zoo.loss.memory import or_present
from ssia_zoo.validation import STRICT, Fraction, FractionAbove0, FractionBelow1, one_line_errors

_EPS = 1e-6
_TINY = 1e-12  # of a probability, before its logarithm


@one_line_errors("ssia")
@dataclass(frozen=True, config=STRICT)
class SSIAConfig:
    """Settings of the SSIA loss.

    Raises:
        ConfigError: A value is out of range, or settings contradict each other.
    """

    pairs: Literal["deepest", "adjacent", "upper"] = "deepest"
    """Which stage supervises which: deepest: the deepest stage supervises all others; adjacent: each stage supervises
    the one below it; upper: the deepest stage supervises only the one below it."""
    semantic: NonNegativeFloat = 1.0
    """Weight of the semantic signal (class distribution of the final logits); 0 disables it."""
    channel: NonNegativeFloat = 0.0
    """Weight of the channel signal (pooled features of the higher stage); 0 disables it."""
    spatial: NonNegativeFloat = 0.0
    """Weight of the spatial signal (attention map of the higher stage); 0 disables it."""
    labels: NonNegativeFloat = 1.0
    """Weight of the task loss on the semantic heads. Above 0, this is SSIA + DSN and no longer self-supervised; 0 is
    the label-free form."""
    handover: bool = True
    """Replace the labels by the semantic signal over training: after a fraction t of it, the heads' labels are weighted
    by 1 - share * t and the semantic signal by share * t. No effect without labels."""
    share: FractionAbove0 = 1.0
    """Weight of the network's own signal at the end of training, with handover or top."""
    supervisor: Literal["now", "memory", "average"] = "now"
    """Predictions that the semantic heads learn: now: those of the current step; memory: the average of earlier
    predictions for the same image, which takes 2 bytes per image and class and no forward pass; average: those of the
    moving average of the weights (requires --ema), which takes one more forward pass per step."""
    momentum: FractionBelow1 = 0.7
    """Weight of the old average when the memory is updated; 0 keeps only the last prediction."""
    top: bool = False
    """Train the final logits on the supervisor's predictions too: after a fraction t of training, the task loss is
    weighted by 1 - share * t and the cross-entropy to these predictions by share * t. Requires supervisor memory or
    average."""
    temperature: PositiveFloat = 3.0
    """Temperature T of the semantic signal; a memory averages predictions at this temperature."""
    pooling: Literal["average", "attention", "none"] = "average"
    """How the semantic head pools positions: average; attention: weighted by the higher stage's spatial attention,
    average where that has one position; none: each cell of a grid of at most 2x2 predicts separately."""
    hidden: PositiveInt = 256
    """Width of the training-only heads, in channels."""
    weight: NonNegativeFloat | None = None
    """Lambda, the weight of the SSIA loss beside the task loss; if None, 1 without labels, else 2 for networks with
    BatchNorm and 0.5 for others."""
    schedule: Schedule = "constant"
    """Lambda over training: constant; warmup: linear increase, then constant; cosine: decay to 0 after a warm-up."""
    warmup: Fraction = 0.1
    """Fraction of training over which lambda increases from 0, for the schedules warmup and cosine."""

    def __post_init__(self) -> None:
        if self.semantic + self.channel + self.spatial == 0:
            raise ConfigError(
                "no signal is set; set at least one of `ssia.semantic`, `ssia.channel`, `ssia.spatial` above 0"
            )
        if self.labels > 0 and (self.semantic == 0 or self.pooling == "none"):
            raise ConfigError(
                f"`ssia.labels` is {self.labels}, but only pooled semantic heads learn labels; set `ssia.labels` to 0, "
                "or `ssia.semantic` above 0 and `ssia.pooling` to average or attention"
            )
        if self.top and self.supervisor == "now":
            raise ConfigError(
                "`ssia.top` requires another supervisor, but `ssia.supervisor` is now; set `ssia.supervisor` to memory "
                "or average, or leave out `ssia.top`"
            )

    @property
    def hands_over(self) -> bool:
        """Whether labels are replaced by the semantic signal over training."""
        return self.handover and self.labels > 0

    def for_model(self, model: nn.Module) -> SSIAConfig:
        """Return the settings with lambda set: `weight`, or if it is None, the default for this network."""
        if self.weight is not None:
            return self
        has_batch_norm = any(isinstance(module, _BatchNorm) for module in model.modules())
        return replace(self, weight=1.0 if self.labels == 0 else 2.0 if has_batch_norm else 0.5)

    @property
    def changes_over_training(self) -> bool:
        """Whether the loss depends on the progress of training."""
        return self.hands_over or self.top or self.schedule != "constant"

    def lambda_at(self, progress: float) -> float:
        """Return lambda at a point of training.

        Args:
            progress: Fraction of optimizer steps done, from 0 to 1.

        Raises:
            ConfigError: `weight` is None, and `for_model` has not set it.
        """
        if self.weight is None:
            raise ConfigError("`ssia.weight` is None, which depends on the network; use SSIAConfig.for_model(model)")
        return scheduled(self.weight, self.schedule, self.warmup, progress)


def spatial_attention(feature: Tensor) -> Tensor:
    """Return the softmax over positions of the standardized energy mean_c F^2 of a feature map.

    Args:
        feature: Feature map [B, C, H, W].

    Returns:
        Attention [B, H * W] in at least float32; each row sums to 1 and is uniform if the energy is constant.
    """
    energy = at_least_float32(feature).square().mean(dim=1).flatten(1)
    centred = energy - energy.mean(dim=1, keepdim=True)
    deviation = centred.square().mean(dim=1, keepdim=True).sqrt()
    return torch.softmax(centred / (deviation + _EPS), dim=1)


def channel_signal(feature: Tensor) -> Tensor:
    """Return a feature map's average over positions, normalized per image over channels.

    Args:
        feature: Feature map [B, C, H, W].

    Returns:
        Signal [B, C] in at least float32, with mean 0 and variance 1 per image.
    """
    pooled = at_least_float32(feature).mean(dim=(2, 3))
    return F.layer_norm(pooled, pooled.shape[1:], eps=_EPS)


class SSIALoss(AuxiliaryLoss):
    """The SSIA loss on the stages of a network; holds the training-only heads.

    A pair whose higher stage has one position has no spatial signal and skips it.

    Args:
        shapes: Channels, height, width of each stage's feature map at the training size, lowest first; at least 2.
        num_classes: Width of the logits.
        config: Settings.
        multi_label: Whether images have several labels: the semantic signal is then the sigmoid of each class.

    Raises:
        ConfigError: There are fewer than 2 stages, a shape or `num_classes` is not positive, no pair has a signal, or
            a memory is asked for with several labels.

    Examples:
        >>> import torch
        >>> loss = SSIALoss([(16, 8, 8), (32, 4, 4)], num_classes=10)
        >>> features = [torch.randn(2, 16, 8, 8), torch.randn(2, 32, 4, 4)]
        >>> sorted(loss(features, torch.randn(2, 10)))
        ['semantic', 'ssia']
    """

    name = "ssia"
    progress: Tensor

    def __init__(
        self,
        shapes: Sequence[StageShape],
        num_classes: int,
        config: SSIAConfig | None = None,
        *,
        multi_label: bool = False,
    ) -> None:
        super().__init__(shapes, num_classes)
        self.config = config or SSIAConfig()
        self.multi_label = multi_label
        if multi_label and self.config.supervisor != "now":
            raise ConfigError(
                f"`ssia.supervisor` is {self.config.supervisor}, which gives distributions over classes, but images "
                "have several labels; set it to now"
            )
        self.uses_labels = self.config.labels > 0
        deepest = len(self.shapes) - 1
        self.pairs = {
            "deepest": [(low, deepest) for low in range(deepest)],
            "adjacent": [(low, low + 1) for low in range(deepest)],
            "upper": [(deepest - 1, deepest)],
        }[self.config.pairs]
        if self.config.pooling == "attention" and not any(self._has_positions(high) for _, high in self.pairs):
            raise ConfigError(
                "`ssia.pooling` is attention, but the supervising stages have a single position, which leaves nothing "
                f"to weight ({self.shapes[-1][1]}x{self.shapes[-1][2]}); use larger images, or set it to average"
            )
        with torch.random.fork_rng(devices=[]):
            self.semantic = nn.ModuleList(self._head(low, num_classes) for low, _ in self._active("semantic"))
            self.channel = nn.ModuleList(self._head(low, self.shapes[high][0]) for low, high in self._active("channel"))
            self.spatial = nn.ModuleList(self._head(low, 1, bias=False) for low, _ in self._active("spatial"))
        if self.config.hands_over:  # a tensor, so that torch.compile does not recompile each step
            self.register_buffer("progress", torch.zeros(()), persistent=False)
        if not (self.semantic or self.channel or self.spatial):
            raise ConfigError(
                f"no pair has a spatial signal: every supervising stage has one position (shapes {self.shapes}); "
                "use larger images, set `ssia.pairs` to adjacent, or use another signal"
            )

    def set_progress(self, progress: float) -> None:
        """Set the fraction of optimizer steps done, from 0 to 1, which decides the weights with `handover`."""
        if self.config.hands_over:
            self.progress.fill_(progress)

    def _active(self, signal: str) -> list[tuple[int, int]]:
        """Return the pairs that have a signal at the sizes given on construction."""
        if getattr(self.config, signal) == 0:
            return []
        if signal == "spatial":
            return [pair for pair in self.pairs if self._has_positions(pair[1])]
        return self.pairs

    def _has_positions(self, stage: int) -> bool:
        return self.shapes[stage][1] * self.shapes[stage][2] > 1

    def _head(self, low: int, out_features: int, bias: bool = True) -> Head:
        return Head(self.shapes[low][0], self.config.hidden, out_features, bias)

    def forward(
        self,
        features: Sequence[Tensor],
        logits: Tensor,
        label_loss: LabelLoss | None = None,
        supervisor: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute the loss; gradients reach the lower stages and the heads, never the supervising features.

        Args:
            features: Feature maps [B, C, H, W], lowest first, with the channels given on construction.
            logits: Final logits [B, num_classes].
            label_loss: The task's criterion with this batch's targets; only for `labels` above 0.
            supervisor: Class distributions [B, num_classes] at the temperature that the semantic heads learn, for
                supervisor memory or average; the current predictions are used if None, and in place of rows of zeros.

        Returns:
            Scalars in at least float32: the mean of each signal over its pairs, and "ssia", their weighted sum without
            lambda.

        Raises:
            ConfigError: If the features or logits are not those that the loss was made for.
        """
        channels = [feature.shape[1] for feature in features]
        if channels != [shape[0] for shape in self.shapes] or logits.shape[1] != self.num_classes:
            raise ConfigError(
                f"got feature maps of {channels} channels and logits of {logits.shape[1]} classes; expected "
                f"{[shape[0] for shape in self.shapes]}, lowest first, and {self.num_classes}"
            )
        with torch.autocast(logits.device.type, enabled=False):
            terms: dict[str, Tensor] = {}
            if self.semantic:
                predictions = self._predict_classes(features)
                if self.multi_label:
                    terms["semantic"] = self._semantic_per_class(predictions, at_least_float32(logits.detach()))
                else:
                    terms["semantic"] = self._semantic(predictions, self._target(logits.detach(), supervisor))
                if self.uses_labels:
                    if label_loss is None:
                        raise ConfigError("`ssia.labels` is above 0, but the loss was called without label_loss")
                    terms["labels"] = torch.stack([label_loss(prediction) for prediction in predictions]).mean()
            if self.channel:
                terms["channel"] = self._channel(features)
            if self.spatial:
                terms["spatial"] = self._spatial(features)
            weights = {name: getattr(self.config, name) for name in terms}
            if self.config.hands_over:
                own = self.config.share * self.progress
                weights["semantic"] *= own
                weights["labels"] *= 1 - own
            terms["ssia"] = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        return terms

    def _predict_classes(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return the logits of each semantic head: [B, num_classes], or [B, positions, num_classes] without pooling."""
        predictions = []
        for head, (low, high) in zip(self.semantic, self._active("semantic"), strict=True):
            if self.config.pooling == "attention" and self._has_positions(high):
                grid, pool = _size(features[high]), spatial_attention(features[high].detach())
            else:
                grid, pool = even_grid(features[low])
            predictions.append(head(features[low], grid, None if self.config.pooling == "none" else pool))
        return predictions

    def _target(self, logits: Tensor, supervisor: Tensor | None) -> Tensor:
        """Return the log-probabilities [B, num_classes] that the semantic heads learn, at the temperature."""
        temperature = self.config.temperature
        if supervisor is None:
            return torch.log_softmax(at_least_float32(logits) / temperature, dim=1)
        return or_present(supervisor, logits, temperature).clamp_min(_TINY).log()

    def _semantic(self, predictions: Sequence[Tensor], target: Tensor) -> Tensor:
        temperature = self.config.temperature
        losses = []
        for prediction in predictions:
            wanted = target if prediction.dim() == 2 else target[:, None].expand_as(prediction).flatten(0, 1)
            log_p = torch.log_softmax(prediction.flatten(0, -2) / temperature, dim=1)
            losses.append(F.kl_div(log_p, wanted, reduction="batchmean", log_target=True))
        return temperature**2 * torch.stack(losses).mean()

    def _semantic_per_class(self, predictions: Sequence[Tensor], logits: Tensor) -> Tensor:
        temperature = self.config.temperature
        wanted = logits / temperature
        losses = []
        for prediction in predictions:
            own = prediction / temperature
            target = wanted if prediction.dim() == 2 else wanted[:, None].expand_as(prediction)
            losses.append(
                F.binary_cross_entropy_with_logits(own, target.sigmoid())
                - F.binary_cross_entropy_with_logits(wanted, wanted.sigmoid())  # the entropy of the target
            )
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
