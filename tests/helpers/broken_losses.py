"""Losses that each break one clause of the contract of `AuxiliaryLoss`, and one that keeps all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssia_zoo.loss import AuxiliaryLoss, StageShape


class Good(AuxiliaryLoss):
    """A linear classifier on each lower stage learns the final prediction."""

    name = "good"

    def __init__(self, shapes: Sequence[StageShape], num_classes: int, temperature: float = 1.0) -> None:
        super().__init__(shapes, num_classes)
        self.temperature = temperature
        with torch.random.fork_rng(devices=[]):
            self.heads = nn.ModuleList(nn.Linear(shape[0], num_classes) for shape in shapes[:-1])

    def forward(self, features: Sequence[Tensor], logits: Tensor, *_: Any) -> dict[str, Tensor]:
        """Compute the objective."""
        with torch.autocast(logits.device.type, enabled=False):
            target = torch.softmax(logits.detach().float() / self.temperature, dim=1)
            return {self.name: self.distance(features, target)}

    def distance(self, features: Sequence[Tensor], target: Tensor) -> Tensor:
        """Return the mean cross-entropy of the heads."""
        predictions = [head(f.float().mean((2, 3))) for head, f in zip(self.heads, features, strict=False)]
        return torch.stack([F.cross_entropy(z, target) for z in predictions]).mean()


class WithoutDefaults(Good):
    def __init__(self, shapes: Sequence[StageShape], num_classes: int) -> None:
        raise ValueError("there is nothing to build")


class DrawsAtConstruction(Good):
    def __init__(self, shapes: Sequence[StageShape], num_classes: int) -> None:
        super().__init__(shapes, num_classes)
        self.other = nn.Linear(2, 2).requires_grad_(False)


class DrawsInForward(Good):
    def forward(self, features: Sequence[Tensor], logits: Tensor, *_: Any) -> dict[str, Tensor]:
        terms = super().forward(features, logits)
        torch.rand(1)
        return terms


class NotScalar(Good):
    def distance(self, features: Sequence[Tensor], target: Tensor) -> Tensor:
        return super().distance(features, target).expand(2)


class NotFinite(Good):
    def distance(self, features: Sequence[Tensor], target: Tensor) -> Tensor:
        return super().distance(features, target) + features[0].std(dim=(1, 2, 3)).log().mean()


class InHalfPrecision(Good):
    def forward(self, features: Sequence[Tensor], logits: Tensor, *_: Any) -> dict[str, Tensor]:
        return {name: term.to(logits.dtype) for name, term in super().forward(features, logits).items()}


class TeachesTheTeacher(Good):
    def forward(self, features: Sequence[Tensor], logits: Tensor, *_: Any) -> dict[str, Tensor]:
        target = torch.softmax(logits.float(), dim=1)
        with torch.autocast(logits.device.type, enabled=False):
            return {self.name: self.distance(features, target)}


class TeachesNobody(Good):
    def distance(self, features: Sequence[Tensor], target: Tensor) -> Tensor:
        return super().distance([feature.detach() for feature in features], target)


class UnusedHead(Good):
    def __init__(self, shapes: Sequence[StageShape], num_classes: int) -> None:
        super().__init__(shapes, num_classes)
        self.unused = nn.Parameter(torch.zeros(1))


class AcrossImages(Good):
    def __init__(self, shapes: Sequence[StageShape], num_classes: int) -> None:
        super().__init__(shapes, num_classes)
        self.norm = nn.BatchNorm2d(shapes[0][0], affine=False, track_running_stats=False)

    def distance(self, features: Sequence[Tensor], target: Tensor) -> Tensor:
        return super().distance([self.norm(features[0].float()), *features[1:]], target)


class SumOverImages(Good):
    def distance(self, features: Sequence[Tensor], target: Tensor) -> Tensor:
        return super().distance(features, target) * len(target)


class ChangesFeatures(Good):
    def distance(self, features: Sequence[Tensor], target: Tensor) -> Tensor:
        features[0].data.mul_(2)
        return super().distance(features, target)


class InexactUnderAutocast(Good):
    def forward(self, features: Sequence[Tensor], logits: Tensor, *_: Any) -> dict[str, Tensor]:
        term = super().forward(features, logits)[self.name]
        return {self.name: term * (1.5 if torch.is_autocast_enabled("cpu") else 1.0)}


class NeedsPositions(Good):
    def distance(self, features: Sequence[Tensor], target: Tensor) -> Tensor:
        return super().distance(features, target) + features[-1].flatten(2).float().std(dim=2).detach().mean()


class BreaksTheGraph(Good):
    def distance(self, features: Sequence[Tensor], target: Tensor) -> Tensor:
        return super().distance(features, target) * (1.0 if features[0].sum().item() > -1e9 else 2.0)


class OtherOnRank1(Good):
    def distance(self, features: Sequence[Tensor], target: Tensor) -> Tensor:
        here = torch.distributed.is_initialized() and torch.distributed.get_rank() == 1 and len(target) == 2
        return super().distance(features, target) * (3.0 if here else 1.0)
