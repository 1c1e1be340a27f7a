"""timm's mixup and cutmix with reproducible randomness."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from timm.data import Mixup
from torch import Tensor

from ssia_zoo.data.randomness import derive_seed, isolate_rng, seed_everything
from ssia_zoo.training.config import TrainConfig

Batch = tuple[Tensor, Tensor]
Mixing = Callable[[Batch, int, int], Batch]
"""A function of a batch, the epoch, and the number of batches before this one in the run."""


def build_mixing(config: TrainConfig, num_classes: int, process: int, *, multi_label: bool = False) -> Mixing | None:
    """Create timm's mixup and cutmix with randomness from seed, step and process alone, so that a resume repeats it.

    Args:
        config: Settings.
        num_classes: Classes of the data.
        process: Rank of this process.
        multi_label: Whether labels are vectors of 0 and 1.

    Returns:
        A function that mixes a batch, or None if mixup and cutmix are off.
    """
    if not (config.mixup or config.cutmix):
        return None
    mixup = Mixup(
        mixup_alpha=config.mixup,
        cutmix_alpha=config.cutmix,
        prob=config.mixup_prob,
        switch_prob=config.mixup_switch_prob,
        mode=config.mixup_mode,
        label_smoothing=config.smoothing,
        num_classes=num_classes,
        multi_label=multi_label,
    )

    def apply(batch: Batch, epoch: int, index: int) -> Batch:
        images, labels = batch
        mixup.mixup_enabled = not config.mixup_off_epoch or epoch < config.mixup_off_epoch  # targets stay soft
        even = len(images) // 2 * 2  # timm's mixup pairs images
        with isolate_rng():
            seed_everything(derive_seed(config.seed, index, process))
            return cast(Batch, mixup(images[:even], labels[:even]))

    return apply
