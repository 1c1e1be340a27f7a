"""Classify image files in batches, with the model's own preprocessing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ssia_zoo.errors import ConfigError
from ssia_zoo.inference.images import Skip, check_loading
from ssia_zoo.inference.model import ImageModel, check_finite
from ssia_zoo.models.features import TimmModel, evaluating
from ssia_zoo.models.label_names import imagenet_names, read_label_names


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

    @torch.inference_mode()
    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        """Return the softmax of the logits: inputs [B, C, H, W] to [B, num_classes], float32 on the CPU."""
        with evaluating(self.model):
            logits: torch.Tensor = self.model(images.to(self.device, non_blocking=True))
        return logits.float().softmax(dim=1).cpu()

    def guesses(self, probabilities: torch.Tensor, top: int) -> tuple[Guess, ...]:
        """Return the `top` most probable classes of one image, or all if there are fewer, from [num_classes]."""
        values, indices = probabilities.topk(min(top, len(probabilities)))
        return tuple(
            Guess(index, self.labels[index], value)
            for index, value in zip(indices.tolist(), values.tolist(), strict=True)
        )

    def predict(
        self, paths: Sequence[Path], skip: Skip, *, top: int = 5, batch_size: int = 32, workers: int = 0
    ) -> Iterator[Prediction]:
        """Classify files in order, in batches.

        Args:
            paths: Image files.
            skip: Called for a file that cannot be read.
            top: Number of classes per image, at least 1.
            batch_size: Images per batch, at least 1.
            workers: Number of processes that read images; 0 reads them in this process.

        Raises:
            ConfigError: If a number is too low.
            WeightError: If the model's outputs are NaN or infinite.
        """
        if top < 1:
            raise ConfigError(f"`top` is {top}; expected at least 1")
        check_loading(batch_size, workers)
        return self._predict(paths, skip, top, batch_size, workers)

    def _predict(
        self, paths: Sequence[Path], skip: Skip, top: int, batch_size: int, workers: int
    ) -> Iterator[Prediction]:
        for readable, images in self.batches(paths, skip, batch_size=batch_size, workers=workers):
            probabilities = self.probabilities(images)
            check_finite(probabilities, readable)
            for path, row in zip(readable, probabilities, strict=True):
                yield Prediction(path, self.guesses(row, top))


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
