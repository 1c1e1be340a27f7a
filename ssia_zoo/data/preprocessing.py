"""How an image becomes a model's input: one description for training, evaluation, prediction and export."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any, Literal, TypeVar

import PIL.Image
import torch
from timm.data import create_transform, resolve_model_data_config
from timm.models import get_model_input_config
from torchvision import transforms

from ssia_zoo.data.config import MAX_PIXELS, DataConfig, height_width
from ssia_zoo.errors import ConfigError, DataError

Config = TypeVar("Config", bound=DataConfig)
Transform = Callable[[PIL.Image.Image], torch.Tensor]

Channels = Literal[1, 3, 4]
"""1: greyscale, 3: RGB, 4: RGB and transparency (alpha)."""

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_CHOICES = ("interpolation", "crop_pct", "crop_mode")


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How an image becomes the model's input, in timm's terms; the defaults are those of training from scratch."""

    input_size: tuple[int, int, int]
    """Channels (see `Channels`), height, width."""
    mean: tuple[float, ...]
    """Per channel, for pixels from 0 to 1."""
    std: tuple[float, ...]
    """Per channel."""
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    crop_mode: str = "center"

    def transform(self) -> Transform:
        """Build timm's evaluation transform: an image of any 8-bit mode to a normalized tensor of `input_size`.

        It raises the DataError of `check_resized`.

        Raises:
            ConfigError: The number of channels is not one of `Channels`.
        """
        steps = [ConvertMode(self.input_size[0]), self.check_resized, *create_transform(**asdict(self)).transforms]
        return transforms.Compose(steps)  # type: ignore[no-any-return]

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Return the width and height of an image after `transform` has resized it, before the crop.

        They exceed those of the crop by as much as the image differs from its shape: a narrow strip becomes very long.
        """
        targets = [math.floor(side / self.crop_pct) for side in (self.input_size[2], self.input_size[1])]
        factors = [target / side for target, side in zip(targets, (width, height), strict=True)]
        if self.crop_mode == "squash":
            return targets[0], targets[1]
        factor = min(factors) if self.crop_mode == "border" else max(factors)
        return round(width * factor), round(height * factor)

    def check_resized(self, image: PIL.Image.Image, max_pixels: int = MAX_PIXELS) -> PIL.Image.Image:
        """Return an image as it is.

        Raises:
            DataError: It is so narrow that resizing its short side makes it larger than `max_pixels`.
        """
        width, height = self.resized(*image.size)
        if width * height > max_pixels:
            raise DataError(
                f"is too narrow: resized for the model, its {image.width}x{image.height} pixels become "
                f"{width}x{height}, more than {max_pixels}; crop it"
            )
        return image

    def applied_to(self, config: Config) -> Config:
        """Return data settings with this size, interpolation and crop."""
        return replace(
            config,
            image_size=self.input_size[1:],
            interpolation=self.interpolation,
            crop_pct=self.crop_pct,
            crop_mode=self.crop_mode,
        )

    def __str__(self) -> str:
        size = "x".join(map(str, self.input_size))
        mean, std = (" ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        return (
            f"{size}, {self.interpolation}, crop {self.crop_pct:g} ({self.crop_mode}), mean {mean}, standard deviation "
            f"{std}"
        )


class ConvertMode:
    """Convert an image to the mode of a model's channels: L, RGB or RGBA.

    RGB drops the transparency of RGBA and keeps the colours below it; RGBA makes an image without transparency opaque.

    Args:
        channels: One of `Channels`.

    Raises:
        ConfigError: It is another number.
    """

    def __init__(self, channels: int) -> None:
        if channels not in _MODES:
            raise ConfigError(
                f"the model takes images of {channels} channels; expected 1 (greyscale), 3 (RGB) or 4 (RGB and "
                "transparency)"
            )
        self.mode = _MODES[channels]

    def __call__(self, image: PIL.Image.Image) -> PIL.Image.Image:
        """Convert an image; one of this mode is returned as it is."""
        return image if image.mode == self.mode else image.convert(self.mode)

    def loss(self, mode: str) -> str | None:
        """Describe what the conversion from another mode changes; None if nothing that matters."""
        if mode == self.mode or (mode == "L" and self.mode == "RGB"):
            return None
        if self.mode == "L":
            return "converted to greyscale (Pillow's mode L), as the model takes one channel"
        if self.mode == "RGB":
            return "stripped of their transparency (the colours below it are kept), as the model takes RGB"
        return "given an opaque fourth channel, as they have no transparency and the model takes four channels"


def model_preprocessing(model: Any, config: DataConfig | None = None) -> Preprocessing:
    """Read a timm model's preprocessing from its `pretrained_cfg`.

    Where the configuration has means of another number of channels, their average is used for every channel, as in
    timm's loader (`adapt_to_chs`); likewise for `std`.

    Args:
        model: A timm model.
        config: Its image size, interpolation and crop replace the model's where they are set.
    """
    own = resolve_model_data_config(model)
    channels = int(get_model_input_config(model)["input_size"][0])  # of the model as built, not of its weights
    height, width = own["input_size"][1:]
    choices = {} if config is None else {name: getattr(config, name) for name in _CHOICES}
    if config is not None and config.image_size is not None:
        height, width = height_width(config.image_size)
    return Preprocessing(
        input_size=(channels, height, width),
        mean=_per_channel(own["mean"], channels),
        std=_per_channel(own["std"], channels),
        **{name: own[name] if choices.get(name) is None else choices[name] for name in _CHOICES},
    )


def with_default_preprocessing(config: Config) -> Config:
    """Return the settings with the defaults of training from scratch for interpolation and crop, where not set."""
    missing = [name for name in _CHOICES if getattr(config, name) is None]
    return replace(config, **{name: getattr(Preprocessing, name) for name in missing}) if missing else config


def _per_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    return tuple(values) if len(values) == channels else (fmean(values),) * channels
