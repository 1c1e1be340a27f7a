"""Finish the batches of the training loader on the training device: normalize and erase."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from ssia_zoo.data.cached import Batch
from ssia_zoo.data.config import DataConfig
from ssia_zoo.data.randomness import isolate_rng


class DeviceTransform:
    """Normalize the images of a batch (uint8 NHWC), and erase rectangles by timm's RandomErasing, where the batch is.

    Batches of normalized images (`pixels` pil, or `cache_images`) are returned as they are.

    Args:
        config: Random erasing.
        mean: Per channel, for pixels from 0 to 1.
        std: Per channel.
    """

    def __init__(self, config: DataConfig, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean, self.std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
        self.erasing = RandomErasing(
            config.random_erase, mode=config.random_erase_mode, max_count=config.random_erase_count, device="cpu"
        )

    def __call__(self, batch: Sequence[Any]) -> Batch:
        """Return images (float32 NCHW), labels and indices.

        Args:
            batch: From `train_loader`, on any device.
        """
        images, labels, indices, *seeds = batch
        if images.dtype == torch.uint8:
            images = self._normalize(images.permute(0, 3, 1, 2))
            if seeds:
                self._erase(images, seeds[0])
        return images, labels, indices

    def _normalize(self, images: Tensor) -> Tensor:
        """Normalize as torchvision's ToTensor and Normalize do, to the last bit."""
        if self.mean.device != images.device:
            self.mean, self.std = self.mean.to(images.device), self.std.to(images.device)
        normalized = torch.empty(images.shape, device=images.device)
        for channel in range(images.shape[1]):  # on a CPU, faster than all channels at once
            torch.div(images[:, channel], 255, out=normalized[:, channel])
        return normalized.sub_(self.mean).div_(self.std)

    def _erase(self, images: Tensor, seeds: Sequence[int]) -> None:
        """Erase in place; the random numbers depend on the seed of each image alone."""
        self.erasing.device = images.device
        with isolate_rng(), _device_generator(images.device) as seed_device:
            for image, seed in zip(images, seeds, strict=True):
                random.seed(seed)
                if self.erasing.mode != "const":
                    seed_device(seed)
                self.erasing(image)


@contextmanager
def _device_generator(device: torch.device) -> Iterator[Callable[[int], Any]]:
    """Yield a function that seeds the device's generator, from which timm draws colours; restore it on exit."""
    if device.type == "cpu":  # restored by isolate_rng
        yield torch.default_generator.manual_seed
        return
    module = torch.get_device_module(device)
    state = module.get_rng_state()
    try:
        yield module.manual_seed
    finally:
        module.set_rng_state(state)
