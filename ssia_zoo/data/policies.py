"""Augmentation policies of timm, repaired for Pillow 13."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import PIL.Image
from timm.data.auto_augment import AugmentOp, AugMixAugment, AutoAugment, RandAugment, posterize


def allow_zero_bits(transforms: Iterable[object]) -> None:
    """Let the policies among these transforms posterize to 0 bits, which gives a black image, as before Pillow 13.

    timm's policies ask for 0 bits at their highest level, which Pillow 13 refuses with a ValueError, so that training
    ends with an error after some thousand images.
    """
    for op in _operations(transforms):
        if op.aug_fn is posterize:
            op.aug_fn = _posterize


def _posterize(image: PIL.Image.Image, bits: int, **kwargs: Any) -> PIL.Image.Image:
    if bits > 0:
        return posterize(image, bits, **kwargs)  # type: ignore[no-any-return]
    return image.point([0] * 256 * len(image.getbands()))


def _operations(transforms: Iterable[object]) -> Iterator[AugmentOp]:
    for transform in transforms:
        if isinstance(transform, AutoAugment):
            for operations in transform.policy:
                yield from operations
        elif isinstance(transform, RandAugment | AugMixAugment):
            yield from transform.ops
