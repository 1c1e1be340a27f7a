"""Classify image files in batches, with the model's own preprocessing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import torch

from ssia_zoo.errors import ConfigError
from ssia_zoo.inference.images import Skip, check_loading
from ssia_zoo.inference.model import ImageModel, check_finite
from ssia_zoo.models.features import TimmModel, evaluating
from ssia_zoo.models.label_names import imagenet_names, multi_label_threshold, read_label_names

_TOP = 5


@dataclass(frozen=True)
class Guess:
    """A class that a model predicts for an image."""

    index: int
    label: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image, most probable first."""

    path: Path
    guesses: tuple[Guess, ...]


class Limits(TypedDict):
    """Which classes of an image are returned."""

    top: int
    """Maximum number."""
    threshold: float | None
    """Lowest probability."""


class Classifier(ImageModel):
    """A timm classifier with its preprocessing and class names."""

    def __init__(self, model: TimmModel) -> None:
        """Put a model into eval mode, on the GPU if there is one.

        Args:
            model: A timm classifier, as `timm.create_model(..., pretrained=True)` returns it.

        Raises:
            ConfigError: If it is not a classifier of greyscale, RGB or RGBA images.
        """
        if getattr(model, "num_classes", 0) < 1:
            raise ConfigError(f"{type(model).__name__} has no classifier (num_classes=0); choose a model with classes")
        super().__init__(model)
        self.labels = label_names(model)
        self.threshold = multi_label_threshold(model)
        """Probability from which a class counts as predicted; None for a model of one label an image."""

    @torch.inference_mode()
    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        """Return the softmax of the logits, or their sigmoid if the model is for several labels an image.

        Args:
            images: Inputs [B, C, H, W].

        Returns:
            Probabilities [B, num_classes], float32 on the CPU.
        """
        with evaluating(self.model):
            logits: torch.Tensor = self.model(images.to(self.device, non_blocking=True))
        logits = logits.float()
        return (logits.softmax(dim=1) if self.threshold is None else logits.sigmoid()).cpu()

    def guesses(self, probabilities: torch.Tensor, top: int, threshold: float | None = None) -> tuple[Guess, ...]:
        """Return the most probable classes of one image, most probable first.

        Args:
            probabilities: Of one image [num_classes].
            top: Maximum number of classes.
            threshold: Leave out classes of a lower probability.
        """
        values, indices = probabilities.topk(min(top, len(probabilities)))
        if threshold is not None:
            values = values[values >= threshold]
            indices = indices[: len(values)]
        return tuple(
            Guess(index, self.labels[index], value)
            for index, value in zip(indices.tolist(), values.tolist(), strict=True)
        )

    def predict(
        self,
        paths: Sequence[Path],
        skip: Skip,
        *,
        top: int | None = None,
        batch_size: int = 32,
        threshold: float | None = None,
        workers: int = 0,
    ) -> Iterator[Prediction]:
        """Classify files in order, in batches.

        Args:
            paths: Image files.
            skip: Called for a file that cannot be read.
            top: Maximum number of classes per image, at least 1; if None, 5, or all from the threshold on for a model
                of several labels an image.
            batch_size: Images per batch, at least 1.
            threshold: Leave out classes of a lower probability; if None, that of the model.
            workers: Number of processes that read images; 0 reads them in this process.

        Raises:
            ConfigError: If a number is out of range.
            WeightError: If the model's outputs are NaN or infinite.
        """
        limits = self.limits(top, threshold)
        check_loading(batch_size, workers)
        return self._predict(paths, skip, limits, batch_size, workers)

    def limits(self, top: int | None, threshold: float | None) -> Limits:
        """Return the limits that `predict` applies to the classes of an image, with the model's own where None.

        Raises:
            ConfigError: If a number is out of range.
        """
        if top is None:
            top = _TOP if self.threshold is None else len(self.labels)
        if top < 1:
            raise ConfigError(f"`top` is {top}; expected at least 1")
        if threshold is not None and not 0 <= threshold <= 1:
            raise ConfigError(f"`threshold` is {threshold:g}; expected a probability from 0 to 1")
        return {"top": top, "threshold": self.threshold if threshold is None else threshold}

    def _predict(
        self, paths: Sequence[Path], skip: Skip, limits: Limits, batch_size: int, workers: int
    ) -> Iterator[Prediction]:
        for readable, images in self.batches(paths, skip, batch_size=batch_size, workers=workers):
            probabilities = self.probabilities(images)
            check_finite(probabilities, readable)
            for path, row in zip(readable, probabilities, strict=True):
                yield Prediction(path, self.guesses(row, **limits))


def label_names(model: TimmModel) -> tuple[str, ...]:
    """Return one name per class.

    They are the model's `label_names`, else ImageNet's for timm's ImageNet weights, else "class 0", "class 1", ….
    """
    own = read_label_names(model.pretrained_cfg or {}, model.num_classes)
    if own is not None:
        return own
    if known := imagenet_names(model):
        return known[1]
    return tuple(f"class {index}" for index in range(model.num_classes))
