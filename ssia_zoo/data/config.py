"""Settings of a data set: which images to train and evaluate on, how they are augmented and batched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ssia_zoo.errors import ConfigError
from ssia_zoo.timm_names import CROP_MODES, INTERPOLATIONS

MAX_PIXELS = 178_956_970
"""Most pixels of an image, if nothing else is said: as many as Pillow takes."""


@dataclass(frozen=True)
class DataConfig:
    """Which images to train and evaluate on, and how they are augmented and batched.

    Raises:
        ConfigError: A value is outside its range.
    """

    dataset: str
    """Hub id, folder of parquet files, of images (one folder a class) or of webdataset shards, or "digits"."""
    dataset_config: str | None = None
    """Configuration, of a data set that has several."""
    streaming: bool = False
    """Read the training split as it comes, without having it at hand; the evaluation split is loaded whole."""
    shuffle_buffer: int = 1000
    """With streaming: images among which the next one is drawn; 0 keeps the stream's order."""
    train_split: str | None = None
    """Split to train on; "train" if not given."""
    eval_split: str | None = None
    """Split to evaluate on; if not given, the first of validation, valid, val, dev, test."""
    image_column: str | None = None
    """Column with the images; if not given, the only one that holds images."""
    label_column: str | None = None
    """Column with the classes; if not given, the only one of class labels, else "label" or "labels"."""
    num_classes: int | None = None
    """Number of classes, where labels are numbers without names; must be given only with streaming."""
    holdout: float = 0.0
    """Evaluate on this fraction of the training split (stratified) and leave the evaluation split untouched."""
    image_size: int | None = None
    """Height and width of the model's input, pixels; the model's own if not given."""
    batch_size: int = 128
    """Images per process and step."""
    eval_batch_size: int | None = None
    """Images per process and step of evaluation; the batch size if not given."""
    workers: int = 2
    """Processes that load images, per process and loader; 0 loads in the training process."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Area of the random resized crop, as a fraction of the image's."""
    ratio: tuple[float, float] = (0.75, 4 / 3)
    """Aspect ratio of the random resized crop."""
    hflip: float = 0.5
    """Probability of a horizontal flip."""
    vflip: float = 0.0
    """Probability of a vertical flip."""
    color_jitter: float = 0.0
    """Strength of random brightness, contrast and saturation; 0 is off."""
    auto_augment: str | None = None
    """timm's policy, such as "rand-m9-mstd0.5-inc1" or "augmix-m3-w3"; it replaces colour jitter."""
    random_erase: float = 0.0
    """Probability that a random rectangle is erased."""
    random_erase_mode: Literal["const", "rand", "pixel"] = "const"
    """What erased pixels become: the mean colour, one random colour, or a random colour each."""
    random_erase_count: int = 1
    """Most rectangles an image, of which a random number is erased; their area is shared out."""
    aug_repeats: int = 1
    """Views of each image in its batch, augmented apart; an epoch keeps its length and sees fewer images."""
    crop_padding: int = 0
    """Pad by this many pixels (reflected) and crop at random, as is usual for CIFAR, not a random resized crop."""
    cache_images: bool = False
    """Decode the training images once and crop and flip them on the training device, which keeps all of them: the same
    batches, sooner. For small square images, with --crop-padding and no augmentation but that and --hflip."""
    interpolation: str | None = None
    """How images are resized: nearest, bilinear, bicubic, box, hamming or lanczos; if not given, as the pretrained
    model wants it, from scratch bicubic."""
    crop_pct: float | None = None
    """Fraction of the resized image's shorter side that evaluation keeps; the pretrained model's, from scratch 1."""
    crop_mode: str | None = None
    """What evaluation does with images of other proportions: center crops, squash distorts, border pads; if not given,
    as the pretrained model wants it, from scratch center."""
    max_train_images: int | None = None
    """Train on this many images, chosen at random once and for all; with streaming, the images of an epoch."""
    max_eval_images: int | None = None
    """Evaluate on this many images, chosen at random once and for all."""
    max_corrupt: float = 0.001
    """Fraction of a split's images that may be unreadable; they are skipped and counted, more of them stop the run."""

    max_pixels: int = MAX_PIXELS
    """Most pixels of an image; a larger JPEG is decoded at a half, a quarter or an eighth of its size, a larger image
    of any other kind counts as unreadable."""
    check_duplicates: bool = False
    """Look for images of equal bytes in the training and the evaluation split, however many there are; up to 10,000
    images are looked at in any case."""

    def __post_init__(self) -> None:
        rules: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
            ("shuffle_buffer", lambda v: v >= 0, "0 or more images"),
            ("num_classes", lambda v: v is None or v >= 2, "at least 2 classes"),
            ("holdout", lambda v: 0 <= v < 1, "a fraction from 0 to below 1"),
            ("max_corrupt", lambda v: 0 <= v <= 1, "a fraction from 0 to 1"),
            ("max_pixels", lambda v: v >= 1, "at least 1 pixel"),
            ("image_size", lambda v: v is None or v >= 1, "at least 1 pixel"),
            ("batch_size", lambda v: v >= 1, "at least 1 image"),
            ("eval_batch_size", lambda v: v is None or v >= 1, "at least 1 image"),
            ("workers", lambda v: v >= 0, "0 or more processes"),
            ("scale", lambda v: 0 < v[0] <= v[1] <= 1, "two rising fractions above 0 and up to 1"),
            ("ratio", lambda v: 0 < v[0] <= v[1], "two rising ratios above 0"),
            ("hflip", lambda v: 0 <= v <= 1, "a probability"),
            ("vflip", lambda v: 0 <= v <= 1, "a probability"),
            ("color_jitter", lambda v: v >= 0, "0 or more"),
            ("random_erase", lambda v: 0 <= v <= 1, "a probability"),
            ("random_erase_count", lambda v: v >= 1, "at least 1 rectangle"),
            ("aug_repeats", lambda v: v >= 1 and self.batch_size % v == 0, "a number that divides --batch-size"),
            ("crop_padding", lambda v: 0 <= v < (self.image_size or v + 1), "0 or more, less than the image size"),
            ("interpolation", lambda v: v is None or v in INTERPOLATIONS, "one of " + ", ".join(INTERPOLATIONS)),
            ("crop_pct", lambda v: v is None or 0 < v <= 1, "a fraction above 0 and up to 1"),
            ("crop_mode", lambda v: v is None or v in CROP_MODES, "one of " + ", ".join(CROP_MODES)),
            ("max_train_images", lambda v: v is None or v >= 1, "at least 1 image"),
            ("max_eval_images", lambda v: v is None or v >= 1, "at least 1 image"),
        )
        for name, holds, expected in rules:
            value = getattr(self, name)
            if not holds(value):
                raise ConfigError(f"--{name.replace('_', '-')} is {value!r}; expected {expected}")
        if self.streaming and self.holdout:
            raise ConfigError("--holdout needs the training split at hand; leave out --streaming, or name --eval-split")
        if self.cache_images and not self.crop_padding:
            raise ConfigError(
                "--cache-images takes no random resized crop; set --crop-padding (such as 4), or leave it out"
            )
        others = ("streaming", "vflip", "color_jitter", "auto_augment", "random_erase")
        if self.cache_images and (given := [f"--{n.replace('_', '-')}" for n in others if getattr(self, n)]):
            raise ConfigError(
                f"--cache-images does not go together with {', '.join(given)}; leave out one or the other"
            )
