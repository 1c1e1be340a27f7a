"""Write small data sets in the formats that are supported."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.Image
import pytest
import torch

from ssia_zoo.data import DataConfig, DeviceTransform, load_image_data
from ssia_zoo.errors import DataError

IMAGE = datasets.Image()
AB = datasets.ClassLabel(names=["a", "b"])
INT = datasets.Value("int64")
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def pictures(count: int, size: int = 8) -> list[PIL.Image.Image]:
    numbers = np.random.default_rng(0)
    return [PIL.Image.fromarray(numbers.integers(0, 256, (size, size, 3), dtype=np.uint8)) for _ in range(count)]


def encoded(image: PIL.Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def plain(number: int) -> bytes:
    """Return a PNG of one colour that encodes a number."""
    return encoded(PIL.Image.new("RGB", (8, 8), (number % 256, number // 256, 128)))


def finished(batch: Any, config: DataConfig | None = None, mean: Any = MEAN, std: Any = STD) -> Any:
    """Return a batch of the training loader as the model gets it: images, labels and indices."""
    return DeviceTransform(config or DataConfig("digits"), mean, std)(batch)


def number_of(image: Any) -> int:
    """Return the number of a plain image of a batch: uint8 [H, W, C], or [C, H, W] normalized by MEAN and STD."""
    pixel = image[4, 4] if image.dtype == torch.uint8 else ((image[:, 4, 4] * 0.25 + 0.5) * 255).round()
    red, green, _ = pixel.int().tolist()
    return int(red + 256 * green)


def rows(columns: dict[str, Any], **features: Any) -> datasets.Dataset:
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def labelled(labels: list[Any], feature: Any = AB) -> datasets.Dataset:
    return rows({"image": pictures(len(labels)), "label": labels}, image=IMAGE, label=feature)


def numbered(start: int, count: int, feature: Any = AB) -> datasets.Dataset:
    """Return plain images of these numbers with alternating labels."""
    numbers = range(start, start + count)
    return rows({"image": [plain(n) for n in numbers], "label": [n % 2 for n in numbers]}, image=IMAGE, label=feature)


def parquet(folder: Path, **splits: datasets.Dataset | list[datasets.Dataset]) -> DataConfig:
    """Write a folder of parquet files, one per data set."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, parts in splits.items():
        parts = parts if isinstance(parts, list) else [parts]
        for number, part in enumerate(parts):
            part.to_parquet(folder / f"{name}-{number:05d}-of-{len(parts):05d}.parquet")
    return DataConfig(str(folder), image_size=8, batch_size=2, workers=0)


def image_folder(folder: Path, **splits: dict[str, int]) -> DataConfig:
    """Write a folder of images, with a number of images for each class of each split."""
    for split, classes in splits.items():
        for name, count in classes.items():
            (folder / split / name).mkdir(parents=True)
            for number, picture in enumerate(pictures(count)):
                picture.save(folder / split / name / f"{number}.png")
    return DataConfig(str(folder), image_size=8, batch_size=2, workers=0)


def shards(folder: Path, label: str = "cls", **splits: list[list[int]]) -> DataConfig:
    """Write a folder of webdataset shards of plain images, by their numbers for each shard of each split."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, parts in splits.items():
        for part, numbers in enumerate(parts):
            with tarfile.open(folder / f"{split}-{part:06d}.tar", "w") as tar:
                for number in numbers:
                    value = str(number % 2) if label == "cls" else json.dumps({"label": number % 2, "width": 8})
                    for extension, content in (("png", plain(number)), (label, value.encode())):
                        info = tarfile.TarInfo(f"image{number:05d}.{extension}")
                        info.size = len(content)
                        tar.addfile(info, io.BytesIO(content))
    return DataConfig(str(folder), image_size=8, batch_size=2, workers=0)


def error_text(config: DataConfig, use: Callable[[DataConfig], Any] = load_image_data) -> str:
    """Return the one-line error of loading a data set."""
    with pytest.raises(DataError) as caught:
        use(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)
