"""How an image becomes a model's input: one description, which training, evaluation, prediction and export share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeVar

import PIL.Image
import torch
from timm.data import create_transform, resolve_model_data_config
from timm.models import get_model_input_config
from torchvision import transforms

from ssia_zoo.errors import ConfigError

if TYPE_CHECKING:
    from ssia_zoo.data.config import DataConfig

    Config = TypeVar("Config", bound=DataConfig)

Transform = Callable[[PIL.Image.Image], torch.Tensor]

_CHOICES = ("interpolation", "crop_pct", "crop_mode")


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How an image becomes the model's input, in timm's terms; the defaults are those of training from scratch."""

    input_size: tuple[int, int, int]
    """channels (3 for RGB, 1 for grey), height, width"""
    mean: tuple[float, ...]
    """one number a channel, as in `std`, for pixels from 0 to 1"""
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    crop_mode: str = "center"

    def transform(self) -> Transform:
        """Make timm's evaluation transform: an RGB image to a normalized tensor of `input_size`.

        Raises:
            ConfigError: If the model takes neither RGB nor grey images.
        """
        channels = self.input_size[0]
        if channels not in (1, 3):
            raise ConfigError(f"the model takes images of {channels} channels; expected 3 (RGB) or 1 (grey)")
        made: Any = create_transform(**asdict(self))
        if channels == 1:
            made = transforms.Compose([transforms.Grayscale(), *made.transforms])
        transform: Transform = made
        return transform

    def applied_to(self, config: Config) -> Config:
        """Return the settings of some data with this size (of a square input), interpolation and crop."""
        return replace(
            config,
            image_size=self.input_size[1],
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


def model_preprocessing(model: Any, config: DataConfig | None = None) -> Preprocessing:
    """Read the preprocessing of a timm model from its `pretrained_cfg`; every other place takes it from here.

    A model of one channel whose configuration names three means gets their mean, as it does for the deviation.

    Args:
        model: A timm model.
        config: Its image size, interpolation and crop, where they are set, replace the model's.
    """
    own = resolve_model_data_config(model)
    channels = int(get_model_input_config(model)["input_size"][0])  # of the model as it is, whatever its weights were
    height, width = own["input_size"][1:]
    set_here = {} if config is None else {name: getattr(config, name) for name in _CHOICES}
    if config is not None and config.image_size is not None:
        height = width = config.image_size
    return Preprocessing(
        input_size=(channels, height, width),
        mean=_per_channel(own["mean"], channels),
        std=_per_channel(own["std"], channels),
        **{name: own[name] if set_here.get(name) is None else set_here[name] for name in _CHOICES},
    )


def with_default_preprocessing(config: Config) -> Config:
    """Return the settings with the defaults of training from scratch where interpolation and crop are not set."""
    missing = [name for name in _CHOICES if getattr(config, name) is None]
    return replace(config, **{name: getattr(Preprocessing, name) for name in missing}) if missing else config


def _per_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    return tuple(values) if len(values) == channels else (fmean(values),) * channels
