"""Settings of a data set: which images to train and evaluate on, and how they are augmented and batched."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PlainValidator,
    PositiveFloat,
    PositiveInt,
)
from pydantic.dataclasses import dataclass

from ssia_zoo.errors import ConfigError
from ssia_zoo.timm_names import CROP_MODES, INTERPOLATIONS
from ssia_zoo.validation import STRICT, Fraction, FractionAbove0, FractionBelow1, one_line_errors, one_of

MAX_PIXELS = 178_956_970
"""Default of `max_pixels`: Pillow's limit."""


Size = int | tuple[int, int]
"""Height and width in pixels; one number where they are equal."""


def read_size(value: Any) -> Size:
    """Check a size: a number, or height and width.

    Raises:
        ValueError: It is neither.
    """
    sides = list(value) if isinstance(value, (list, tuple)) else [value]
    if len(sides) not in (1, 2) or not all(type(side) is int and side > 0 for side in sides):
        raise ValueError("one number of pixels greater than 0, or two: height and width")
    return (sides[0], sides[1]) if len(set(sides)) == 2 else sides[0]


OptionalSize = Annotated[Size | None, PlainValidator(lambda value: None if value is None else read_size(value))]
"""One union, as tyro does not look for a default value's type in a union within a union."""


def height_width(size: Size) -> tuple[int, int]:
    """Return height and width of a size."""
    return size if isinstance(size, tuple) else (size, size)


def _ascending(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError("two numbers in ascending order")
    return pair


@one_line_errors()
@dataclass(frozen=True, config=STRICT)
class DataConfig:
    """Which images to train and evaluate on, and how they are augmented and batched.

    Raises:
        ConfigError: A value is out of range, or settings contradict each other.
    """

    dataset: str
    """Hub id, folder of parquet files, of images (one folder per class) or of webdataset shards, or "digits"."""
    dataset_config: str | None = None
    """Configuration of a data set that has several."""
    streaming: bool = False
    """Stream the training split instead of loading it; the evaluation split is loaded."""
    shuffle_buffer: NonNegativeInt = 1000
    """Size of the shuffle buffer for streaming, images; 0 keeps the order of the stream."""
    train_split: str | None = None
    """Split to train on; if None, train."""
    eval_split: str | None = None
    """Split to evaluate on; if None, the first that exists of validation, valid, val, dev, test."""
    image_column: str | None = None
    """Column with the images; if None, the only column of images."""
    label_column: str | None = None
    """Column with the classes; if None, the only column of class labels, else label, labels or cls. In a file of
    labels, it may be the names of columns of 0 and 1, separated by commas."""
    labels: str | None = None
    """CSV or TSV file with a path and a label per image of the folder `dataset`; a column split, if any, names the
    splits."""
    label_separator: str | None = None
    """Separator of several labels in one cell, such as ";"; if None, ; or | is found in the file of labels. "": one
    label per cell."""
    num_classes: Annotated[int, Field(ge=2)] | None = None
    """Number of classes, for labels that are numbers without names; required only for streaming."""
    holdout: FractionBelow1 = 0.0
    """Evaluate on this fraction of the training split (stratified) instead of the evaluation split."""
    image_size: OptionalSize = None
    """Size of the model's input, pixels: one number for a square, or height and width; if None, that of the model."""
    train_image_size: OptionalSize = None
    """Size of the training images, pixels, if it is not that of the model's input: a smaller one makes steps cheaper,
    and objects appear as large in training as in evaluation (FixRes, arXiv 1906.06423)."""
    batch_size: PositiveInt = 128
    """Images per process and step."""
    eval_batch_size: PositiveInt | None = None
    """Images per process and evaluation step; if None, the batch size."""
    workers: NonNegativeInt = 2
    """Data loading processes per process and loader; 0 loads in the main process."""
    scale: Annotated[tuple[FractionAbove0, FractionAbove0], AfterValidator(_ascending)] = (0.08, 1.0)
    """Area range of the random resized crop, as fractions of the image."""
    ratio: Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(_ascending)] = (0.75, 4 / 3)
    """Range of the aspect ratio of the random resized crop, relative to that of the model's input."""
    hflip: Fraction = 0.5
    """Probability of a horizontal flip."""
    vflip: Fraction = 0.0
    """Probability of a vertical flip."""
    color_jitter: NonNegativeFloat = 0.0
    """Strength of random brightness, contrast and saturation; 0 disables it."""
    auto_augment: str | None = None
    """timm's AutoAugment policy, such as "rand-m9-mstd0.5-inc1" or "augmix-m3-w3"; replaces colour jitter."""
    random_erase: Fraction = 0.0
    """Probability of random erasing."""
    random_erase_mode: Literal["const", "rand", "pixel"] = "const"
    """Content of erased pixels: const: the mean colour; rand: one random colour; pixel: a random colour each."""
    random_erase_count: PositiveInt = 1
    """Maximum number of erased rectangles per image, which share the erased area."""
    aug_repeats: PositiveInt = 1
    """Augmented views of each image in a batch; an epoch keeps its length and sees fewer images."""
    balanced_sampling: bool = False
    """Draw every class equally often; an epoch keeps its length, repeats images of rare classes, each time augmented
    differently, and leaves out images of frequent ones."""
    crop_padding: NonNegativeInt = 0
    """Pad by this many pixels (reflection) and crop at random, as usual for CIFAR, instead of a random resized crop."""
    cache_images: bool = False
    """Decode the training images once, keep them on the training device, and crop and flip them there: the same
    batches, faster. For small square images, with crop padding and no augmentation but crops and flips."""
    interpolation: Annotated[str, one_of(INTERPOLATIONS)] | None = None
    """Interpolation of the resize: nearest, bilinear, bicubic, box, hamming or lanczos; if None, that of the pretrained
    model, or bicubic from scratch."""
    crop_pct: FractionAbove0 | None = None
    """Fraction of the resized image that the evaluation crop keeps; if None, that of the pretrained model, or 1 from
    scratch."""
    crop_mode: Annotated[str, one_of(CROP_MODES)] | None = None
    """Evaluation of images that are not square: center (crop), squash (distort) or border (pad); if None, that of the
    pretrained model, or center from scratch."""
    max_train_images: PositiveInt | None = None
    """Train on a fixed random subset of this size; with streaming, the number of images per epoch."""
    max_eval_images: PositiveInt | None = None
    """Evaluate on a fixed random subset of this size."""
    max_corrupt: Fraction = 0.001
    """Maximum fraction of unreadable images in a split; they are skipped and counted, and more of them stop the run."""

    max_pixels: PositiveInt = MAX_PIXELS
    """Maximum size of an image, pixels. A larger JPEG is decoded at 1/2, 1/4 or 1/8 of its size; other larger images
    count as unreadable."""
    pixels: Literal["tensor", "pil"] = "tensor"
    """Path of the training images: tensor: crop and resize uint8 tensors, decode JPEGs by simplejpeg (if installed) and
    much larger ones at a reduced size, and normalize on the training device; pil: do all of it on Pillow images in the
    workers, as all weights were trained before this setting existed. Evaluation always does."""
    check_duplicates: bool = False
    """Search the training and evaluation splits for identical images, whatever their number; up to 10,000 images are
    always searched."""

    def __post_init__(self) -> None:
        if self.batch_size % self.aug_repeats:
            raise ConfigError(
                f"`aug_repeats` is {self.aug_repeats}; expected a divisor of `batch_size` {self.batch_size}"
            )
        name = "image_size" if self.train_image_size is None else "train_image_size"
        size: Size | None = getattr(self, name)
        if size is not None and self.crop_padding >= min(height_width(size)):
            raise ConfigError(f"`crop_padding` is {self.crop_padding}; expected less than `{name}` {size}")
        if self.streaming and self.holdout:
            raise ConfigError("`holdout` cannot split a stream; leave out `streaming`, or set `eval_split` instead")
        if self.holdout and self.eval_split is not None:
            raise ConfigError(
                f"`holdout` evaluates on a part of the training split, and `eval_split` on {self.eval_split}; "
                "leave out one of them"
            )
        if self.streaming and self.check_duplicates:
            raise ConfigError("`check_duplicates` compares all images, which a stream lacks; leave out one of them")
        if self.streaming and self.balanced_sampling:
            raise ConfigError(
                "`balanced_sampling` needs all labels before training, which a stream lacks; leave out one of them"
            )
        if self.cache_images and not self.crop_padding:
            raise ConfigError("`cache_images` requires `crop_padding`, such as 4; set it, or leave out `cache_images`")
        others = ("streaming", "vflip", "color_jitter", "auto_augment", "random_erase")
        if self.cache_images and (given := [f"`{name}`" for name in others if getattr(self, name)]):
            raise ConfigError(f"`cache_images` cannot be combined with {', '.join(given)}; leave out one or the other")
