"""From settings to timm's transforms: an RGB image to a normalized tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from timm.data import create_transform
from timm.data.transforms import str_to_interp_mode
from torchvision import transforms

from ssia_zoo.data.decode import ReflectCrop
from ssia_zoo.data.preprocessing import Preprocessing, Transform, with_default_preprocessing
from ssia_zoo.errors import ConfigError

if TYPE_CHECKING:
    from ssia_zoo.data.config import DataConfig


def train_transform(config: DataConfig, mean: Sequence[float], std: Sequence[float]) -> Transform:
    """Makes timm's augmentation: an RGB image to a normalized float tensor, 3 x image_size x image_size."""
    size = side(config)
    config = with_default_preprocessing(config)
    try:
        transform = create_transform(
            size,
            is_training=True,
            scale=config.scale,
            ratio=config.ratio,
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
        )
    except (AssertionError, ValueError, KeyError, IndexError) as error:
        raise ConfigError(
            f"timm cannot make the augmentation of --auto-augment {config.auto_augment!r}; "
            "expected a policy such as 'rand-m9-mstd0.5-inc1', 'augmix-m3-w3', 'original' or 'v0'"
        ) from error
    if config.crop_padding:
        transform = transforms.Compose(
            [resize(config), ReflectCrop(size, config.crop_padding), *transform.transforms[1:]]
        )
    made: Transform = transform
    return made


def eval_transform(
    config: DataConfig,
    mean: Sequence[float],
    std: Sequence[float],
    input_size: tuple[int, int, int] | None = None,
) -> Transform:
    """Make timm's resize and crop: an RGB image to a normalized float tensor.

    Args:
        config: Interpolation and crop, and the size if `input_size` is None.
        mean: Per channel.
        std: Per channel.
        input_size: Channels, height, width; RGB, image_size x image_size, if None.
    """
    config = with_default_preprocessing(config)
    size = input_size or (3, side(config), side(config))
    return Preprocessing(
        input_size=size,
        mean=tuple(mean),
        std=tuple(std),
        interpolation=str(config.interpolation),
        crop_pct=float(config.crop_pct or 1),
        crop_mode=str(config.crop_mode),
    ).transform()


def resize(config: DataConfig) -> transforms.Resize:
    """Makes the shorter side the input's size; leaves an image alone where it has that already."""
    interpolation = with_default_preprocessing(config).interpolation
    return transforms.Resize(side(config), interpolation=str_to_interp_mode(interpolation))


def side(config: DataConfig) -> int:
    """Height and width of the model's input, pixels, once they are known."""
    if config.image_size is None:
        raise ConfigError("--image-size is not set; expected the model's input size in pixels")
    return config.image_size
