"""Classify image files in batches, with the model's own preprocessing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import PIL.Image
import torch

from ssia_zoo.data.decode import decode_image
from ssia_zoo.data.image_types import image_suffixes, suffix_of
from ssia_zoo.data.preprocessing import ConvertMode, model_preprocessing
from ssia_zoo.errors import ConfigError, DataError, one_line
from ssia_zoo.models.features import TimmModel, evaluating
from ssia_zoo.models.label_names import imagenet_names, multi_label_threshold, read_label_names

_TOP = 5

_log = logging.getLogger(__name__)

Skip = Callable[[Path, str], None]
"""Called with each path that is skipped and the reason, in one line."""


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


def find_images(paths: Sequence[Path], skip: Skip) -> list[Path]:
    """List image files: files as given, and the images in folders, recursively and sorted by path.

    Hidden files and folders inside a folder are left out; a file given twice is listed once.

    Args:
        paths: Files and folders.
        skip: Called for a path that does not exist and for a folder without images.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if _is_image(file, path))
            if not inside:
                skip(path, f"contains no images; looked for {' '.join(sorted(image_suffixes()))}")
            found |= dict.fromkeys(inside)
        elif path.is_file():
            found[path] = None
        else:
            skip(path, "no such file or folder")
    return list(found)


def _is_image(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return suffix_of(file.name) in image_suffixes() and not hidden and file.is_file()


def read_image(path: Path) -> PIL.Image.Image:
    """Decode an image of any mode (palette, CMYK, 16 bits, …) to 8-bit L, RGB or RGBA, rotated as its EXIF data says.

    Raises:
        DataError: If the file cannot be read or is not an image; the message does not name the path.
    """
    try:
        return decode_image({"path": None, "bytes": path.read_bytes()})
    except OSError as error:
        reason = "not an image, or damaged" if isinstance(error, PIL.UnidentifiedImageError) else one_line(error, 200)
        raise DataError(f"cannot be read: {error.strerror or reason}") from error
    except Exception as error:  # decoders raise any exception on damaged files
        raise DataError(f"cannot be decoded: {one_line(error, 200)}") from error


class Classifier:
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
        preprocessing = model_preprocessing(model)
        self._transform = preprocessing.transform()
        self._convert = ConvertMode(preprocessing.input_size[0])
        self._logged: set[str] = set()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.eval().to(self.device)
        self.mean, self.std = preprocessing.mean, preprocessing.std
        self.input_size = preprocessing.input_size
        self.labels = label_names(model)
        self.threshold = multi_label_threshold(model)
        """Probability from which a class counts as predicted; None for a model of one label an image."""

    def prepare(self, image: PIL.Image.Image) -> torch.Tensor:
        """Transform an image of any 8-bit mode to the model's normalized input [C, H, W], on the CPU.

        Log once what the conversion to the model's channels changes.
        """
        loss = self._convert.loss(image.mode)
        if loss is not None and loss not in self._logged:
            _log.warning("images are %s", loss)
            self._logged.add(loss)
        tensor: torch.Tensor = self._transform(image)
        return tensor

    @torch.inference_mode()
    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        """Return the softmax of the logits, or their sigmoid if the model is for several labels an image.

        Args:
            images: Inputs [B, C, H, W].

        Returns:
            Probabilities [B, num_classes], float32 on the CPU.
        """
        with evaluating(self.model):
            logits: torch.Tensor = self.model(images.to(self.device))
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
    ) -> Iterator[Prediction]:
        """Classify files in order, in batches.

        Args:
            paths: Image files.
            skip: Called for a file that cannot be read.
            top: Maximum number of classes per image, at least 1; if None, 5, or all from the threshold on for a model
                of several labels an image.
            batch_size: Images per batch, at least 1.
            threshold: Leave out classes of a lower probability; if None, that of the model.

        Raises:
            ConfigError: If a number is out of range.
        """
        if top is None:
            top = _TOP if self.threshold is None else len(self.labels)
        for name, value in (("top", top), ("batch_size", batch_size)):
            if value < 1:
                raise ConfigError(f"`{name}` is {value}; expected at least 1")
        if threshold is not None and not 0 <= threshold <= 1:
            raise ConfigError(f"`threshold` is {threshold:g}; expected a probability from 0 to 1")
        return self._predict(paths, skip, top, batch_size, self.threshold if threshold is None else threshold)

    def _predict(
        self, paths: Sequence[Path], skip: Skip, top: int, batch_size: int, threshold: float | None
    ) -> Iterator[Prediction]:
        for group in _batched(paths, batch_size):
            readable, inputs = [], []
            for path in group:
                try:
                    inputs.append(self.prepare(read_image(path)))
                    readable.append(path)
                except DataError as error:
                    skip(path, str(error))
            if inputs:
                for path, row in zip(readable, self.probabilities(torch.stack(inputs)), strict=True):
                    yield Prediction(path, self.guesses(row, top, threshold))


def _batched(paths: Sequence[Path], size: int) -> Iterator[Sequence[Path]]:
    return (paths[start : start + size] for start in range(0, len(paths), size))


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
