"""Load real images for an export: for the parity check, for int8 calibration and for int8 accuracy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import PIL.Image

from ssia_zoo.data import DataConfig, digits, load_image_data
from ssia_zoo.data.config import Size, height_width
from ssia_zoo.data.decode import decode_image
from ssia_zoo.data.image_types import image_suffixes, suffix_of
from ssia_zoo.data.preprocessing import Preprocessing, model_preprocessing
from ssia_zoo.data.splits import subset
from ssia_zoo.errors import ConfigError, DataError, one_line
from ssia_zoo.models.saving import public_name

_ACCURACY_IMAGES = 1000

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class RealImages:
    """Preprocessed images [N, C, H, W] with their names."""

    pixels: Array
    names: list[str]
    source: str


@dataclass(frozen=True)
class CalibrationData:
    """Training images for calibration, and labelled evaluation images for measuring accuracy."""

    images: Array
    eval_images: Array
    eval_labels: npt.NDArray[np.int64]
    label_names: list[str]
    dataset: str


def data_config(model: Any, image_size: Size | None) -> dict[str, Any]:
    """Return a model's preprocessing as a dict of `Preprocessing`'s fields.

    Args:
        model: A timm model.
        image_size: Of the input, pixels: one number for a square, or height and width; the model's own if None.
    """
    config = asdict(model_preprocessing(model))
    if image_size is not None:
        config["input_size"] = (config["input_size"][0], *height_width(image_size))
    return config


def parity_images(config: dict[str, Any], folder: Path | None, count: int) -> RealImages:
    """Preprocess `count` images of a folder, repeated if there are fewer; scikit-learn's digits if it is None.

    Raises:
        ConfigError: If the folder does not exist or has no readable image.
        DataError: If an image is too narrow to be resized.
    """
    transform = Preprocessing(**config).transform()
    found = _digit_images(count) if folder is None else _folder_images(folder, count)
    prepared = []
    for name, image in found:  # never all images in full size
        try:
            prepared.append((name, transform(image).numpy()))
        except DataError as error:
            raise DataError(f"{name} {error}") from error
    names, pixels = [name for name, _ in prepared], np.stack([image for _, image in prepared])
    order = [index % len(names) for index in range(count)]
    source = "scikit-learn's digits, test split" if folder is None else public_name(str(folder))
    return RealImages(pixels[order], [names[index] for index in order], source)


def calibration_data(config: dict[str, Any], dataset: str, count: int) -> CalibrationData:
    """Preprocess `count` training images and at most 1000 images of the evaluation split.

    Raises:
        ConfigError: If `count` is below 1.
        DataError: If the data set cannot be read.
    """
    if count < 1:
        raise ConfigError(f"`calibration_images` is {count}; expected at least 1")
    data = load_image_data(DataConfig(dataset, max_eval_images=_ACCURACY_IMAGES))
    if data.multi_label:
        raise DataError(f"{dataset} has several labels an image; expected one, to compare the accuracy of int8")
    parts = []
    transform = Preprocessing(**config).transform()
    splits: tuple[tuple[str, Any], ...] = (("train", subset(data.train, count)), (data.eval_name, data.eval))
    for name, rows in splits:
        try:
            stored = rows.cast_column(data.image_column, datasets.Image(decode=False))
            parts.append(np.stack([transform(decode_image(row[data.image_column])).numpy() for row in stored]))
        except Exception as error:  # decoders raise any exception on damaged files
            reason = one_line(error, 200)
            raise DataError(f"cannot decode an image of {name} of {dataset}: {reason}; repair the data set") from error
    labels = np.asarray(data.eval[data.label_column], dtype=np.int64)
    return CalibrationData(parts[0], parts[1], labels, list(data.label_names), public_name(dataset))


def batches(images: Array, size: int) -> Iterator[Array]:
    """Yield consecutive batches; the last one may be smaller."""
    for start in range(0, len(images), size):
        yield images[start : start + size]


def _digit_images(count: int) -> Iterator[tuple[str, PIL.Image.Image]]:
    for index, row in enumerate(digits()["test"].select(range(count))):
        yield f"digits test image {index}", row["image"]


def _folder_images(folder: Path, count: int) -> Iterator[tuple[str, PIL.Image.Image]]:
    if not folder.is_dir():
        raise ConfigError(f"`images` is {folder}, which is not a folder; expected a folder of images")
    suffixes = image_suffixes()
    files = sorted(path for path in folder.rglob("*") if suffix_of(path.name) in suffixes and path.is_file())[:count]
    if not files:
        raise ConfigError(f"`images` is {folder}, which has no images; expected files that Pillow reads: JPEG, PNG, …")
    for file in files:
        try:
            image = decode_image({"path": str(file), "bytes": None})
        except Exception as error:  # decoders raise any exception on damaged files
            raise ConfigError(f"cannot decode {file}: {one_line(error, 200)}; remove it") from error
        yield str(file.relative_to(folder)), image
