"""Generated photographs, and folders of them that train_hf.py and timm's train.py both read."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import PIL.Image

SIZE = (512, 384)
_FILES = 64


def photographs(folder: Path, number: int, size: tuple[int, int] = SIZE) -> list[Path]:
    """Write JPEGs of smooth colours with fine noise."""
    numbers, paths = np.random.default_rng(0), []
    width, height = size
    for index in range(number):
        colours = numbers.integers(0, 256, (height // 16 or 1, width // 16 or 1, 3), dtype=np.uint8)
        noise = numbers.normal(0, 6, (height, width, 3))
        pixels = (np.asarray(PIL.Image.fromarray(colours).resize(size)) + noise).clip(0, 255).astype(np.uint8)
        paths.append(folder / f"{index:05d}.jpg")
        PIL.Image.fromarray(pixels).save(paths[-1], quality=90)
    return paths


def photo_folder(folder: Path, images: int, classes: int, size: tuple[int, int] = SIZE, held_out: int = 0) -> Path:
    """Write a folder with a folder per class in train/ and validation/; the images are links to few files.

    Args:
        folder: Where to write.
        images: Training images.
        classes: Number of classes.
        size: Width and height.
        held_out: Validation images; one per class if 0.
    """
    files = folder / "files"
    files.mkdir(parents=True)
    photos = photographs(files, min(_FILES, images), size)
    for split, count in (("train", images), ("validation", held_out or classes)):
        for index in range(max(count, classes)):
            path = folder / "data" / split / f"class{index % classes:04d}" / f"{index:07d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(photos[index % len(photos)], path)
    return folder / "data"
