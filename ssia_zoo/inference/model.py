"""A timm model that takes image files: what classifying and embedding have in common."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import PIL.Image
import torch
from torch import Tensor

from ssia_zoo.data.config import MAX_PIXELS
from ssia_zoo.data.preprocessing import model_preprocessing
from ssia_zoo.errors import WeightError
from ssia_zoo.inference.images import ImageReader, Skip, load_batches
from ssia_zoo.models.features import TimmModel

_log = logging.getLogger(__name__)


class ImageModel:
    """A timm model with its preprocessing."""

    def __init__(self, model: TimmModel) -> None:
        """Put a model into eval mode, on the GPU if there is one.

        Args:
            model: A timm model, as `timm.create_model(..., pretrained=True)` returns it.

        Raises:
            ConfigError: If it does not take greyscale, RGB or RGBA images.
        """
        self.preprocessing = model_preprocessing(model)
        self._reader = ImageReader(self.preprocessing)
        self._logged: set[str] = set()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.eval().to(self.device)
        self.mean, self.std = self.preprocessing.mean, self.preprocessing.std
        self.input_size = self.preprocessing.input_size

    def prepare(self, image: PIL.Image.Image, max_pixels: int = MAX_PIXELS) -> Tensor:
        """Transform an image of any 8-bit mode to the model's normalized input [C, H, W], on the CPU.

        Log once what the conversion to the model's channels changes. Arguments and errors are those of
        `ImageReader.prepare`.
        """
        tensor, conversion = self._reader.prepare(image, max_pixels)
        self._log_conversions({conversion} - {None})  # type: ignore[arg-type]
        return tensor

    def batches(
        self, paths: Sequence[Path], skip: Skip, *, batch_size: int, workers: int
    ) -> Iterator[tuple[list[Path], Tensor]]:
        """Yield the readable files and their inputs [B, C, H, W], in order; see `images.load_batches`."""
        for batch in load_batches(paths, self._reader, batch_size=batch_size, workers=workers):
            self._log_conversions(batch.conversions)
            for path, reason in batch.skipped:
                skip(path, reason)
            if batch.images is not None:
                yield batch.paths, batch.images

    def describe(self) -> dict[str, str]:
        """Describe what the outputs depend on: preprocessing, and sha256 of the state_dict."""
        return {"sha256": self._digest(), "preprocessing": str(self.preprocessing)}

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def _log_conversions(self, conversions: set[str]) -> None:
        for conversion in sorted(conversions - self._logged):
            _log.warning("images are %s", conversion)
        self._logged |= conversions


def check_finite(outputs: Tensor, paths: Sequence[Path]) -> None:
    """Check a model's outputs [B, N] for images.

    Raises:
        WeightError: If one is NaN or infinite.
    """
    finite = outputs.isfinite().all(dim=1)
    if not finite.all():
        first = paths[int(finite.int().argmin())]
        raise WeightError(
            f"the model's outputs are NaN or infinite, first for {first}; its weights are damaged, or training "
            "diverged: use other weights"
        )
