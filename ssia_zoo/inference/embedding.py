"""Compute the pooled features of image files in batches, with the model's own preprocessing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ssia_zoo.errors import ConfigError
from ssia_zoo.inference.images import Skip, check_loading
from ssia_zoo.inference.model import ImageModel, check_finite
from ssia_zoo.models.features import TimmModel, evaluating, try_blank_image


@dataclass(frozen=True)
class Embedding:
    """The features of one image."""

    path: Path
    features: npt.NDArray[np.float32]


class Embedder(ImageModel):
    """A timm model without its classifier, with its preprocessing."""

    def __init__(self, model: TimmModel) -> None:
        """Put a model into eval mode, on the GPU if there is one.

        Args:
            model: A timm model, as `timm.create_model(..., pretrained=True)` returns it, with any number of classes.

        Raises:
            ConfigError: If it has no pooled features, or does not take greyscale, RGB or RGBA images.
        """
        name = type(model).__name__
        if not (hasattr(model, "forward_features") and hasattr(model, "forward_head")):
            raise ConfigError(f"{name} has no forward_features/forward_head; expected a timm model")
        super().__init__(model)
        shape = try_blank_image(model, self.input_size, self._forward).shape
        if len(shape) != 2:
            raise ConfigError(
                f"the features of {name} are not pooled, their shape is {tuple(shape)}; use another model"
            )
        self.dimension = int(shape[1])

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        """Return the pooled features, the classifier's input: images [B, C, H, W] to [B, dimension], float32, CPU."""
        with evaluating(self.model):
            return self._forward(images.to(self.device, non_blocking=True)).float().cpu()

    def embed(
        self, paths: Sequence[Path], skip: Skip, *, batch_size: int = 32, workers: int = 0
    ) -> Iterator[Embedding]:
        """Compute the features of files in order, in batches.

        Args:
            paths: Image files.
            skip: Called for a file that cannot be read.
            batch_size: Images per batch, at least 1.
            workers: Number of processes that read images; 0 reads them in this process.

        Raises:
            ConfigError: If a number is too low.
            WeightError: If the features are NaN or infinite.
        """
        check_loading(batch_size, workers)
        return self._embed(paths, skip, batch_size, workers)

    def _embed(self, paths: Sequence[Path], skip: Skip, batch_size: int, workers: int) -> Iterator[Embedding]:
        for readable, images in self.batches(paths, skip, batch_size=batch_size, workers=workers):
            features = self.features(images)
            check_finite(features, readable)
            for path, row in zip(readable, features.numpy(), strict=True):
                yield Embedding(path, row)

    def _forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.model.forward_head(self.model.forward_features(images), pre_logits=True)
        return features
