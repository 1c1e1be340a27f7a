"""Decode, crop and resize training images as uint8 tensors (`pixels` tensor); Pillow takes what tensors do not."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch
from timm.data.transforms import RandomResizedCropAndInterpolation, str_to_interp_mode
from torch import Tensor
from torchvision.transforms import Compose
from torchvision.transforms.v2 import functional as F

from ssia_zoo.data import jpeg
from ssia_zoo.data.config import DataConfig
from ssia_zoo.data.decode import decode_image, read_content
from ssia_zoo.data.messages import is_main_process
from ssia_zoo.data.preprocessing import ConvertMode, with_default_preprocessing
from ssia_zoo.data.randomness import seed_everything
from ssia_zoo.data.samples import Reader, RowReader
from ssia_zoo.data.transforms import timm_augmentation, train_height_width

_log = logging.getLogger(__name__)

_ON_TENSORS = ("bilinear", "bicubic")
"""Interpolations that torch does on uint8 as Pillow does: the same weights, and pixels that differ by one level of 255,
or by more next to black and white, where each clips what overshoots between its two passes."""

_GAP = 1.5
"""A JPEG is decoded at the smallest size at which the crop has at least this multiple of the input's size. Like
`reducing_gap` of Pillow's `Image.thumbnail`, which is 2 by default: a larger one is closer to a decode at full size."""

Box = tuple[int, int, int, int]
"""Top, left, height and width, pixels."""


class TensorPixels:
    """Turns an undecoded image into an augmented uint8 tensor [H, W, C].

    The random numbers are those of `train_transform`, drawn in the same order: the same crop, the same flips, the same
    policy.

    Args:
        config: Image size, crop and augmentation.
        mean: Per channel; used by policies that fill with it, and for the number of channels.
        std: Per channel.

    Raises:
        ConfigError: As `train_transform`.
    """

    def __init__(self, config: DataConfig, mean: Sequence[float], std: Sequence[float]) -> None:
        self.convert = ConvertMode(len(mean))
        self.size = train_height_width(config)
        geometry, policy, _ = timm_augmentation(config, mean, std)
        self.crop = None if config.crop_padding else geometry[0]
        self.before = Compose(geometry) if config.crop_padding else None
        self.flips = [(F.horizontal_flip, config.hflip), (F.vertical_flip, config.vflip)]
        self.policy = Compose(policy) if policy else None
        self.name = str(with_default_preprocessing(config).interpolation)
        self.interpolation = str_to_interp_mode(self.name)
        # Pillow multiplies colours by the transparency before it resizes them.
        self.resizes_on_pil = self.name not in _ON_TENSORS or self.convert.mode == "RGBA"

    def decode(self, value: dict[str, Any], max_pixels: int, seed: int) -> Tensor | PIL.Image.Image:
        """Decode the part of an image that a random crop shows.

        Args:
            value: An undecoded image, as for `decode_image`.
            max_pixels: As for `decode_image`.
            seed: Of all random numbers of the image.

        Returns:
            The crop, uint8 [C, height, width], not yet resized; the complete image with `crop_padding`.

        Raises:
            Exception: Any error that the decoder raises on a damaged file.
        """
        if self.crop is None:
            image = self.convert(decode_image(value, max_pixels))
            seed_everything(seed)
            return image
        content = read_content(value)
        header = jpeg.read_header(content)
        if header is None:
            image = decode_image({"bytes": content}, max_pixels)
            seed_everything(seed)
            return self._cut(image, draw_box(self.crop, image.height, image.width))
        seed_everything(seed)
        box = draw_box(self.crop, *header.upright)
        divisor = max(self._divisor(box), header.limit_divisor(content, max_pixels))
        grey = self.convert.mode == header.mode == "L"
        decoded = jpeg.decode_jpeg(content, header, "L" if grey else "RGB", divisor)
        if decoded is None:
            image = decode_image({"bytes": content}, max_pixels, divisor)
            return self._cut(image, reduced_box(box, divisor, image.height, image.width))
        top, left, height, width = reduced_box(box, divisor, *decoded.shape[:2])
        pixels = np.ascontiguousarray(decoded[top : top + height, left : left + width])
        if grey or self.convert.mode == "RGB":
            return torch.from_numpy(pixels).permute(2, 0, 1)
        return to_tensor(self.convert(PIL.Image.fromarray(pixels)))

    def augment(self, decoded: Tensor | PIL.Image.Image) -> Tensor:
        """Resize what `decode` returns, flip it and apply the policy; return uint8 [H, W, C]."""
        if self.before is not None:
            pixels = to_tensor(self.before(decoded))
        else:
            pixels = self._resize(decoded)
            for flip, probability in self.flips:
                if probability > 0 and torch.rand(1) < probability:
                    pixels = flip(pixels)
        if self.policy is not None:
            pixels = to_tensor(self.policy(F.to_pil_image(pixels)))
        return pixels.permute(1, 2, 0).contiguous()  # as decoders and resizes lay them out: a batch is then a copy

    def _divisor(self, box: Box) -> int:
        """Return the divisor of the size at which to decode a JPEG for a crop: 1, 2, 4 or 8."""
        smaller = min(box[2] / self.size[0], box[3] / self.size[1])
        return next((divisor for divisor in (8, 4, 2) if smaller >= divisor * _GAP), 1)

    def _cut(self, image: PIL.Image.Image, box: Box) -> Tensor:
        top, left, height, width = box
        return to_tensor(self.convert(image.crop((left, top, left + width, top + height))))

    def _resize(self, pixels: Any) -> Tensor:
        if self.resizes_on_pil:
            return to_tensor(F.resize(F.to_pil_image(pixels), list(self.size), self.interpolation))
        resized: Tensor = F.resize(pixels, list(self.size), self.interpolation, antialias=True)
        return resized


def draw_box(crop: RandomResizedCropAndInterpolation, height: int, width: int) -> Box:
    """Draw timm's random crop of an image of this size, of at least one pixel."""
    shape = torch.empty(1, height, width, device="meta")  # get_params reads the size alone
    top, left, crop_height, crop_width = crop.get_params(shape, crop.scale, crop.ratio)
    return top, left, max(1, crop_height), max(1, crop_width)


def reduced_box(box: Box, divisor: int, height: int, width: int) -> Box:
    """Return the box in an image of this size, which is a fraction of that for which it was drawn."""
    if divisor == 1:
        return box
    edges: list[tuple[int, int]] = []
    for start, length, limit in ((box[0], box[2], height), (box[1], box[3], width)):
        first = min(round(start / divisor), limit - 1)
        edges.append((first, min(limit, max(first + 1, round((start + length) / divisor))) - first))
    (top, crop_height), (left, crop_width) = edges
    return top, left, crop_height, crop_width


def to_tensor(image: PIL.Image.Image) -> Tensor:
    """Return the pixels of an 8-bit image, uint8 [C, H, W]."""
    pixels = np.array(image)
    return torch.from_numpy(pixels if pixels.ndim == 3 else pixels[..., None]).permute(2, 0, 1)


def report_path(pixels: TensorPixels, config: DataConfig, reader: Reader) -> None:
    """Log which decoder is used, and what runs on Pillow images, in one line each."""
    if not is_main_process():
        return
    if pixels.crop is not None and _holds_jpegs(reader):
        if (decoder := jpeg.decoder_version()) is None:
            _log.warning(
                "JPEGs are decoded by Pillow, to the same pixels but more slowly, as simplejpeg cannot be imported; "
                "run: pip install 'ssia-zoo[jpeg]'"
            )
        else:
            _log.info("JPEGs are decoded by simplejpeg %s", decoder)
    if pixels.policy is not None:
        name = "auto_augment" if config.auto_augment else "color_jitter"
        _log.info("`%s` runs on Pillow images, as in timm", name)
    if pixels.crop is not None and pixels.resizes_on_pil:
        what = "transparency" if pixels.convert.mode == "RGBA" else f"interpolation {pixels.name}"
        _log.info("crops are resized as Pillow images: tensors do not support %s", what)


def _holds_jpegs(reader: Reader) -> bool:
    """Return whether one of three images of a split is a JPEG; True for a stream, which is not read for it."""
    if not isinstance(reader, RowReader):
        return True
    for sample in reader.read([(0, row) for row in {0, len(reader) // 2, len(reader) - 1}]):
        try:
            if sample.value and read_content(sample.value).startswith(jpeg.JPEG_SIGNATURE):
                return True
        except (OSError, ValueError):
            continue
    return False
