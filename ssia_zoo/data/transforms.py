"""Build timm's transforms from the settings: an image to a normalized tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch
from timm.data import create_transform
from timm.data.transforms import ResizeKeepRatio, str_to_interp_mode
from torchvision import transforms

from ssia_zoo.data.config import DataConfig, Size, height_width
from ssia_zoo.data.policies import allow_zero_bits
from ssia_zoo.data.preprocessing import ConvertMode, Preprocessing, Transform, with_default_preprocessing
from ssia_zoo.errors import ConfigError


class Augmentation(NamedTuple):
    """timm's training transforms in three parts."""

    geometry: list[Callable[..., Any]]
    """Crop and flips, image to image."""
    policy: list[Callable[..., Any]]
    """AutoAugment, RandAugment, AugMix or colour jitter, image to image; empty without them."""
    final: list[Callable[..., Any]]
    """Conversion to float, normalization and random erasing."""


def train_transform(config: DataConfig, mean: Sequence[float], std: Sequence[float]) -> Transform:
    """Build timm's augmentation: an image of any 8-bit mode to a normalized float tensor.

    Args:
        config: Image size, crop and augmentation.
        mean: Per channel; the number of channels is 1 (greyscale), 3 (RGB) or 4 (RGB and transparency).
        std: Per channel.

    Raises:
        ConfigError: timm does not know the augmentation policy or does not support it for four channels, or the image
            size is not set.
    """
    convert, parts = ConvertMode(len(mean)), timm_augmentation(config, mean, std)
    return transforms.Compose([convert, *parts.geometry, *parts.policy, *parts.final])  # type: ignore[no-any-return]


def timm_augmentation(config: DataConfig, mean: Sequence[float], std: Sequence[float]) -> Augmentation:
    """Build the parts of `train_transform`; arguments and errors are the same."""
    height, width = train_height_width(config)
    config = with_default_preprocessing(config)
    if config.auto_augment and ConvertMode(len(mean)).mode == "RGBA":
        raise ConfigError(
            f"`auto_augment` is {config.auto_augment!r}, which Pillow does not support for four channels; leave it out"
        )
    try:
        parts = create_transform(
            (height, width),
            is_training=True,
            scale=config.scale,
            ratio=input_ratio(config),
            hflip=config.hflip,
            vflip=config.vflip,
            color_jitter=config.color_jitter or None,
            auto_augment=config.auto_augment,
            interpolation=config.interpolation,
            mean=tuple(mean),
            std=tuple(std),
            re_prob=config.random_erase,
            re_mode=config.random_erase_mode,
            re_count=config.random_erase_count,
            separate=True,
        )
    except (AssertionError, ValueError, KeyError, IndexError) as error:
        raise ConfigError(
            f"`auto_augment` is {config.auto_augment!r}, which timm does not know; expected a policy such as "
            "'rand-m9-mstd0.5-inc1', 'augmix-m3-w3' or 'original'"
        ) from error
    geometry, policy, final = (list(part.transforms) for part in parts)
    allow_zero_bits(policy)
    if config.crop_padding:
        geometry = [resize_transform(config), ReflectCrop((height, width), config.crop_padding), *geometry[1:]]
    return Augmentation(geometry, policy, final)


def input_ratio(config: DataConfig) -> tuple[float, float]:
    """Return the range of aspect ratios (width to height) of the random crop."""
    height, width = train_height_width(config)
    low, high = config.ratio
    return low * width / height, high * width / height


def eval_transform(
    config: DataConfig,
    mean: Sequence[float],
    std: Sequence[float],
    input_size: tuple[int, int, int] | None = None,
) -> Transform:
    """Build timm's resize and crop: an image of any 8-bit mode to a normalized tensor.

    Args:
        config: Interpolation and crop, and the size if `input_size` is None.
        mean: Per channel.
        std: Per channel.
        input_size: Channels, height, width; those of `mean` and `config` if None.

    Raises:
        ConfigError: The image size is not set.
    """
    config = with_default_preprocessing(config)
    return Preprocessing(
        input_size=input_size or (len(mean), *input_height_width(config)),
        mean=tuple(mean),
        std=tuple(std),
        interpolation=str(config.interpolation),
        crop_pct=float(config.crop_pct or 1),
        crop_mode=str(config.crop_mode),
    ).transform()


def resize_transform(config: DataConfig) -> Callable[[PIL.Image.Image], PIL.Image.Image]:
    """Build the resize to the smallest size that covers the training size; an image of that is left unchanged.

    It raises the DataError of `Preprocessing.check_resized`.
    """
    interpolation = with_default_preprocessing(config).interpolation
    height, width = train_height_width(config)
    resize: Any = transforms.Resize(height, interpolation=str_to_interp_mode(interpolation))
    if height != width:
        resize = ResizeKeepRatio((height, width), interpolation=interpolation)
    covering = Preprocessing(input_size=(3, height, width), mean=(), std=())
    return transforms.Compose([covering.check_resized, resize])  # type: ignore[no-any-return]


def input_height_width(config: DataConfig) -> tuple[int, int]:
    """Return the height and width of the model's input, pixels.

    Raises:
        ConfigError: They are not set.
    """
    if config.image_size is None:
        raise ConfigError("`image_size` is not set; expected the model's input size in pixels")
    return height_width(config.image_size)


def train_height_width(config: DataConfig) -> tuple[int, int]:
    """Return the height and width of the training images, pixels.

    Raises:
        ConfigError: Neither they nor those of the model's input are set.
    """
    return input_height_width(config) if config.train_image_size is None else height_width(config.train_image_size)


class ReflectCrop:
    """Pad an image by reflection and crop a part at random.

    Draws the numbers and returns the pixels of torchvision's RandomCrop(padding_mode="reflect"), but takes 28 µs
    instead of 119 for 32x32 pixels; decoding and augmenting such an image takes some 300.

    Args:
        size: Height and width of the crop (one number for a square), at most those of the image.
        padding: Pixels on each side.
    """

    def __init__(self, size: Size, padding: int) -> None:
        self.height, self.width = height_width(size)
        self.padding = padding

    def __call__(self, image: PIL.Image.Image) -> PIL.Image.Image:
        """Crop an image."""
        rows, columns = reflected_indices(image.height, self.padding), reflected_indices(image.width, self.padding)
        top = int(torch.randint(0, len(rows) - self.height + 1, size=(1,)))
        left = int(torch.randint(0, len(columns) - self.width + 1, size=(1,)))
        pixels = np.asarray(image).take(rows[top : top + self.height], axis=0)
        return PIL.Image.fromarray(pixels.take(columns[left : left + self.width], axis=1))


@lru_cache(maxsize=256)
def reflected_indices(length: int, padding: int) -> npt.NDArray[np.int64]:
    """Return the index of the pixel at each place of a line of `length` pixels that is padded by reflection."""
    return np.pad(np.arange(length), padding, mode="reflect")
