"""Show images with a model's answer and where the model looked."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch

from ssia_zoo.data.decode import decode_rgb
from ssia_zoo.data.encoded import selected_rows
from ssia_zoo.data.samples import RowReader
from ssia_zoo.errors import ConfigError
from ssia_zoo.evaluation.answers import Answers
from ssia_zoo.evaluation.validate import Evaluation
from ssia_zoo.inference.attention import AttentionMap
from ssia_zoo.inference.explain import class_map

_log = logging.getLogger(__name__)

_SIDE = 240  # pixels
_MOST = 24
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


@dataclass(frozen=True)
class Mistake:
    """An image that is predicted wrong."""

    answer: int
    """Its index in the answers."""
    picture: PIL.Image.Image
    looked: PIL.Image.Image | None
    """The model's input with the Grad-CAM map of the predicted class; None if the model has none."""


def worst_mistakes(answers: Answers, evaluation: Evaluation, most: int = _MOST) -> list[Mistake]:
    """Return the wrongly predicted images with the highest loss, at most `most`.

    Args:
        answers: Of `collect_answers`, for this evaluation.
        evaluation: From `prepare_evaluation`.
        most: Number of images.
    """
    wrong = np.flatnonzero(~answers.correct)
    worst = wrong[np.argsort(-answers.loss[wrong], kind="stable")][:most]
    pictures, maps = Pictures(evaluation.loader.dataset.reader), Maps(evaluation)
    return [
        Mistake(answer, pictures.draw(row), maps.draw(row, predicted))
        for answer, row, predicted in zip(
            worst.tolist(), answers.rows[worst].tolist(), answers.predicted[worst].tolist(), strict=True
        )
    ]


class Pictures:
    """Draws images of a split.

    Args:
        reader: Reads the images, as the loader's data set does.
    """

    def __init__(self, reader: RowReader) -> None:
        self._reader = reader
        self._places = _places(reader)

    def draw(self, row: int) -> PIL.Image.Image:
        """Return the image of a row of the split, reduced."""
        sample = self._reader.read([(0, self._places[row])])[0]
        image = decode_rgb(sample.value or {}, self._reader.max_pixels)
        image.thumbnail((_SIDE, _SIDE), PIL.Image.Resampling.LANCZOS)
        return image


class Maps:
    """Draws where a model looks.

    Args:
        evaluation: The model and its images.
    """

    def __init__(self, evaluation: Evaluation) -> None:
        self._evaluation = evaluation
        self._places = _places(evaluation.loader.dataset.reader)
        self._has_maps = True

    def draw(self, row: int, label: int) -> PIL.Image.Image | None:
        """Return the model's input for a row with the Grad-CAM map of a class, or None if the model has none."""
        if not self._has_maps:
            return None
        model, outputs = self._evaluation.model, self._evaluation.outputs
        prepared: torch.Tensor = self._evaluation.loader.dataset[(0, self._places[row])][0]
        device = next(model.parameters()).device
        try:
            found = class_map(model, prepared[None].to(device), label if outputs is None else outputs[label])
        except ConfigError as error:
            self._has_maps = False
            _log.warning("the report shows no maps of where the model looked: %s", error)
            return None
        return None if found is None else overlay(self._pixels(prepared), found.values)

    def _pixels(self, prepared: torch.Tensor) -> npt.NDArray[np.float32]:
        """Return a prepared image as [H, W, 3] in 0…1."""
        preprocessing = self._evaluation.preprocessing
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (preprocessing.mean, preprocessing.std))
        pixels: npt.NDArray[np.float32] = (
            (prepared * std + mean).clamp(0, 1)[:3].expand(3, -1, -1).permute(1, 2, 0).numpy()
        )
        return pixels


def _places(reader: RowReader) -> dict[int, int]:
    """Return the place among the evaluated images of each row of the split."""
    return {row: place for place, row in enumerate(np.asarray(selected_rows(reader.rows)).tolist())}


def overlay(pixels: npt.NDArray[np.float32], values: AttentionMap) -> PIL.Image.Image:
    """Draw a map over an image in grey, more opaque where its values are high.

    Args:
        pixels: The image [H, W, 3] in 0…1.
        values: The map [h, w], not negative; its largest value is drawn brightest.

    Returns:
        The picture, its longer side 240 pixels.
    """
    from matplotlib import colormaps

    height, width = pixels.shape[:2]
    share = PIL.Image.fromarray(values / (float(values.max()) or 1.0))
    smooth = np.asarray(share.resize((width, height), PIL.Image.Resampling.BILINEAR)).clip(0, 1)
    grey = (0.2 + 0.6 * (pixels @ _LUMA))[..., None]
    opacity = (0.25 + 0.5 * smooth)[..., None]
    mixed = (1 - opacity) * grey + opacity * colormaps["inferno"](smooth)[..., :3]
    image = PIL.Image.fromarray((255 * mixed).round().astype(np.uint8))
    scale = _SIDE / max(height, width)
    return image.resize((round(width * scale), round(height * scale)), PIL.Image.Resampling.BILINEAR)
