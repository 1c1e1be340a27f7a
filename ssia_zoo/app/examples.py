"""Pictures to try, made by this package: digits of scikit-learn's test split, and drawings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
from PIL import ImageDraw, ImageFilter

from ssia_zoo.data import digits


@dataclass(frozen=True)
class Example:
    """A picture and a published weight that knows its class."""

    name: str
    model: str
    path: Path


def write_examples(folder: Path, models: tuple[str, ...]) -> list[Example]:
    """Write the pictures for models into a folder.

    Args:
        folder: Existing folder.
        models: Names of the models that are offered; pictures for others are left out.
    """
    found = []
    for name, (model, draw) in _EXAMPLES.items():
        if model in models:
            path = folder / f"{name}.png"
            draw().save(path)
            found.append(Example(name, model, path))
    return found


def ship() -> PIL.Image.Image:
    """Draw a ship on the sea."""
    image = _gradient((150, 190, 225), (187, 215, 225))
    image.paste(_gradient((40, 80, 120), (62, 102, 142)).crop((0, 0, 240, 90)), (0, 150))
    draw = ImageDraw.Draw(image)
    draw.polygon([(30, 140), (210, 140), (190, 178), (55, 178)], fill=(150, 40, 35))
    draw.rectangle((80, 108, 165, 140), fill=(235, 235, 230))
    draw.rectangle((100, 85, 150, 108), fill=(235, 235, 230))
    draw.rectangle((115, 60, 132, 85), fill=(60, 60, 60))
    for x in range(90, 160, 16):
        draw.ellipse((x, 118, x + 8, 126), fill=(60, 90, 120))
    return image.filter(ImageFilter.GaussianBlur(1))


def lemons() -> PIL.Image.Image:
    """Draw three lemons on a table."""
    image = PIL.Image.new("RGB", (320, 320), (200, 196, 188))
    draw = ImageDraw.Draw(image)
    for x, y in ((40, 60), (150, 110), (70, 180)):
        draw.ellipse((x + 6, y + 14, x + 140, y + 104), fill=(150, 140, 120))
        draw.ellipse((x, y, x + 130, y + 92), fill=(238, 205, 45))
        draw.ellipse((x + 118, y + 36, x + 138, y + 56), fill=(225, 190, 40))
        draw.ellipse((x + 25, y + 15, x + 70, y + 40), fill=(250, 228, 110))
    return image.filter(ImageFilter.GaussianBlur(4))


def digit(label: int) -> PIL.Image.Image:
    """Return the first digit of a class in the test split of scikit-learn's digits, 8x8 pixels, enlarged."""
    test = digits()["test"]
    image: PIL.Image.Image = test[test["label"].index(label)]["image"]
    return image.resize((128, 128), PIL.Image.Resampling.NEAREST)


def _gradient(top: tuple[int, int, int], bottom: tuple[int, int, int]) -> PIL.Image.Image:
    """Return 240x240 pixels that change from one colour to another."""
    rows = np.linspace(top, bottom, 240).round().astype(np.uint8)
    return PIL.Image.fromarray(np.repeat(rows[:, None], 240, axis=1))


_EXAMPLES: dict[str, tuple[str, Callable[[], PIL.Image.Image]]] = {
    "ship": ("resnet18_ssia.c10_r32", ship),
    "lemons": ("resnet18_ssia.tin_r64", lemons),
    "digit 5": ("mobilenetv3_small_050_ssia.digits_r32", lambda: digit(5)),
    "digit 8": ("mobilenetv3_small_050_ssia.digits_r32", lambda: digit(8)),
}
