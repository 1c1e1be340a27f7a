"""A model's answer to a picture: classes, where each stage looks, the class map, and what changes the answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import PIL.Image
import torch
from timm.data import ImageNetInfo

from ssia_zoo.app.config import LIFETIME, AppConfig
from ssia_zoo.data.config import MAX_PIXELS
from ssia_zoo.errors import ConfigError, DataError
from ssia_zoo.inference import Classifier, Guess, read_image
from ssia_zoo.inference.attention import AttentionMap
from ssia_zoo.inference.explain import Explanation, explain
from ssia_zoo.inference.model import check_finite
from ssia_zoo.report.page import percent
from ssia_zoo.report.pictures import overlay

_TOP = 5
_MOST = 10
_CLOSE_UP = 0.6
_SIDE = 240  # pixels
_WORDNET_ID = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class Panel:
    """A picture with what is written below it."""

    picture: PIL.Image.Image
    alt: str
    title: str
    notes: tuple[str, ...] = ()
    changed: bool = False
    """Whether the answer differs from that to the full picture."""


@dataclass(frozen=True)
class Answer:
    """What the page shows of one model."""

    model: str
    guesses: tuple[Guess, ...]
    maps: tuple[Panel, ...]
    """The input, each stage, the class map."""
    changes: tuple[Panel, ...]
    """The picture, changed."""
    remark: str = ""
    """Why something is missing."""


def open_picture(path: Path, config: AppConfig) -> PIL.Image.Image:
    """Read a picture that a person gave.

    Raises:
        DataError: If it was removed, is larger than the limits, or no image; the message is for that person.
    """
    try:
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise DataError(
            f"the picture was removed, as pictures are after {LIFETIME // 60} minutes; drop it again, or click on the "
            "example again"
        ) from error
    if size > config.max_bytes:
        megabytes = size / 2**20
        raise DataError(f"the file has {megabytes:.1f} MB, but `max_megabytes` is {config.max_megabytes:g}: shrink it")
    if size == 0:
        raise DataError("the file is empty; choose another picture")
    try:
        return read_image(path, config.max_pixels)
    except DataError as error:
        raise DataError(f"the picture {error}") from error


def answer(name: str, classifier: Classifier, picture: PIL.Image.Image, max_pixels: int = MAX_PIXELS) -> Answer:
    """Compute a model's answer to a picture.

    Args:
        name: The model's name on the page.
        classifier: The model.
        picture: Of any 8-bit mode.
        max_pixels: Most pixels of the picture as resized for the model.

    Raises:
        DataError: If the picture is too narrow for that limit; the message is for the person who gave it.
        WeightError: If the model's outputs are NaN or infinite.
    """
    variants = _variants(picture)
    try:
        inputs = torch.stack([classifier.prepare(change(picture), max_pixels) for _, change in variants])
    except DataError as error:
        raise DataError(f"the picture {error}") from error
    probabilities = classifier.probabilities(inputs)
    check_finite(probabilities, [Path("this picture")] * len(variants))
    guesses = _guesses(classifier, probabilities[0])
    best = int(probabilities[0].argmax())
    changes = [
        _change(title, change(picture), classifier, row, best)
        for (title, change), row in zip(variants, probabilities, strict=True)
    ]
    remark = "" if guesses else "No class reaches the model's threshold."
    try:
        maps = _maps(explain(name, classifier, picture))
    except ConfigError as error:
        maps, remark = [], f"{remark} No maps: {error}.".strip()
    return Answer(name, guesses, tuple(maps), tuple(changes), remark)


def share(value: float) -> str:
    """Format a probability as a percentage."""
    return f"<{percent(0.001)}" if 0 < value < 0.0005 else percent(value)


def readable(label: str) -> str:
    """Return ImageNet's description for a WordNet id, and any other label as it is."""
    if _WORDNET_ID.fullmatch(label):
        try:
            return str(_imagenet().label_name_to_description(label)).split(", ")[0]
        except KeyError:
            return label
    return label


_info: list[ImageNetInfo] = []


def _imagenet() -> ImageNetInfo:
    if not _info:
        _info.append(ImageNetInfo())
    return _info[0]


def _guesses(classifier: Classifier, probabilities: torch.Tensor) -> tuple[Guess, ...]:
    top = _TOP if classifier.threshold is None else _MOST
    found = classifier.guesses(probabilities, top, classifier.threshold)
    return tuple(Guess(guess.index, readable(guess.label), guess.probability) for guess in found)


# --- What changes the answer ------------------------------------------------------------------------------------------


def _variants(picture: PIL.Image.Image) -> Sequence[tuple[str, Callable[[PIL.Image.Image], PIL.Image.Image]]]:
    return [
        ("as it is", lambda image: image),
        ("cropped", _crop),
        ("in grey", lambda image: image.convert("LA" if image.mode == "RGBA" else "L").convert(image.mode)),
        ("mirrored", lambda image: image.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)),
    ]


def _crop(picture: PIL.Image.Image) -> PIL.Image.Image:
    width, height = (max(1, round(side * _CLOSE_UP)) for side in picture.size)
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


def _change(title: str, picture: PIL.Image.Image, classifier: Classifier, row: torch.Tensor, best: int) -> Panel:
    now = int(row.argmax())
    labels = [readable(classifier.labels[index]) for index in (now, best)]
    notes = [f"“{label}” {share(float(row[index]))}" for label, index in zip(labels, (now, best), strict=True)]
    if now == best:
        return Panel(thumbnail(picture), f"The picture {title}", title, (notes[0],))
    return Panel(thumbnail(picture), f"The picture {title}", title, (f"now {notes[0]}", notes[1]), changed=True)


def thumbnail(picture: PIL.Image.Image) -> PIL.Image.Image:
    """Return a picture in RGB, its longer side reduced or enlarged to 240 pixels."""
    flat = picture.convert("RGB")
    scale = _SIDE / max(flat.size)
    size = (max(1, round(flat.width * scale)), max(1, round(flat.height * scale)))
    return flat.resize(size, PIL.Image.Resampling.NEAREST if scale > 4 else PIL.Image.Resampling.LANCZOS)


# --- Where the model looks --------------------------------------------------------------------------------------------


def _maps(found: Explanation) -> list[Panel]:
    height, width = found.pixels.shape[:2]
    pixels = PIL.Image.fromarray((255 * found.pixels).round().astype("uint8"))
    panels = [Panel(thumbnail(pixels), "The model's input", "input", (f"{height}×{width} pixels",))]
    for stage, values in enumerate(found.stages, start=1):
        title = f"stage {stage}"
        if values.size == 1:
            panels.append(Panel(overlay(found.pixels, values * 0), f"Attention of {title}", title, ("one position",)))
            continue
        alt = f"Attention of {title}, highest {where(values)}"
        note = f"{_size(values)}, peak {share(float(values.max()))}"
        panels.append(Panel(overlay(found.pixels, values), alt, title, (note,)))
    label = readable(found.guess.label)
    if found.class_map is not None:
        values = found.class_map.values
        alt = f"Class map of “{label}”, highest {where(values)}"
        notes = (f"of “{label}”,", f"at stage {found.class_map.stage + 1}")
        panels.append(Panel(overlay(found.pixels, values), alt, "class map", notes))
    return panels


def where(values: AttentionMap) -> str:
    """Describe in words where a map has its largest value, such as "at the upper left" or "in the centre"."""
    row, column = divmod(int(values.argmax()), values.shape[1])
    vertical = ("upper ", "", "lower ")[min(2, int(3 * (row + 0.5) / values.shape[0]))]
    horizontal = ("left", "", "right")[min(2, int(3 * (column + 0.5) / values.shape[1]))]
    place = f"{vertical}{horizontal}".strip()
    if not place:
        return "in the centre"
    return f"at the {place if horizontal else {'upper': 'top', 'lower': 'bottom'}[place]}"


def _size(values: AttentionMap) -> str:
    return f"{values.shape[0]}×{values.shape[1]}"
