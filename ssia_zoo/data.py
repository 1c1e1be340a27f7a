"""From the name of a data set to reproducible loaders: `datasets` reads, timm transforms, torch's DataLoader batches.

What augmentation does to a sample depends on (seed, epoch, sample index) alone: not on the number of workers, the batch
it is in, the process, or anything drawn before. So a run that is resumed, or spread otherwise, sees the same images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import datasets
import numpy as np
import PIL.Image
import torch
from timm.data import create_transform
from timm.data.transforms import str_to_interp_mode
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate
from torchvision import transforms

from ssia_zoo._images import ReflectCrop, decode_rgb, global_randomness_kept, mix, seed_everything
from ssia_zoo._splits import (
    digits,
    find_image_column,
    find_label_column,
    find_split,
    load_splits,
    name_labels,
    read_labels,
    stratified,
    subset,
)
from ssia_zoo.errors import ConfigError, DataError

__all__ = [
    "DataConfig",
    "EpochSampler",
    "ImageData",
    "UnreadableImageError",
    "digits",
    "eval_loader",
    "eval_transform",
    "load_image_data",
    "train_loader",
    "train_transform",
]

EVAL_SPLITS = ("validation", "valid", "val", "dev", "test")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")

Transform = Callable[[PIL.Image.Image], torch.Tensor]
Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class DataConfig:
    """Which images to train and evaluate on, and how they are augmented and batched.

    Raises:
        ConfigError: A value is outside its range.
    """

    dataset: str
    """Hub id, folder of parquet files, folder of images (one folder a class), or "digits" (comes with scikit-learn)."""
    train_split: str | None = None
    """Split to train on; "train" if not given."""
    eval_split: str | None = None
    """Split to evaluate on; if not given, the first of validation, valid, val, dev, test."""
    image_column: str | None = None
    """Column with the images; if not given, the only one that holds images."""
    label_column: str | None = None
    """Column with the classes; if not given, the only one of class labels, else "label" or "labels"."""
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
    interpolation: str = "bicubic"
    """How images are resized: nearest, bilinear, bicubic, box, hamming or lanczos."""
    crop_pct: float = 1.0
    """Fraction of the resized image's shorter side that evaluation keeps."""
    max_train_images: int | None = None
    """Train on this many images, chosen at random once and for all."""
    max_eval_images: int | None = None
    """Evaluate on this many images, chosen at random once and for all."""

    def __post_init__(self) -> None:
        rules: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
            ("holdout", lambda v: 0 <= v < 1, "a fraction from 0 to below 1"),
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
            ("interpolation", lambda v: v in INTERPOLATIONS, "one of " + ", ".join(INTERPOLATIONS)),
            ("crop_pct", lambda v: 0 < v <= 1, "a fraction above 0 and up to 1"),
            ("max_train_images", lambda v: v is None or v >= 1, "at least 1 image"),
            ("max_eval_images", lambda v: v is None or v >= 1, "at least 1 image"),
        )
        for name, holds, expected in rules:
            value = getattr(self, name)
            if not holds(value):
                raise ConfigError(f"--{name.replace('_', '-')} is {value!r}; expected {expected}")


@dataclass(frozen=True)
class ImageData:
    """The images to train and to evaluate on: two columns each, an Image and a ClassLabel of the same names."""

    train: datasets.Dataset
    eval: datasets.Dataset
    label_names: tuple[str, ...]
    image_column: str
    label_column: str
    eval_name: str
    """What `eval` is, for reports: "test", "holdout 10% of train"."""


def load_image_data(config: DataConfig) -> ImageData:
    """Finds splits, columns and class names, and checks every label.

    Raises:
        DataError: The data set cannot be found or read, is ambiguous, or has labels that cannot be trained on.
    """
    splits = load_splits(config.dataset)
    train_name = find_split(splits, config.train_split, ("train",), "--train-split")
    parts = [(train_name, splits[train_name])]
    if not config.holdout:
        eval_name = find_split(splits, config.eval_split, EVAL_SPLITS, "--eval-split")
        parts.append((eval_name, splits[eval_name]))
    for name, rows in parts:
        if len(rows) == 0:
            raise DataError(f"the split {name!r} of {config.dataset!r} is empty; choose another or fill it")
    image_column = find_image_column(parts, config.image_column)
    label_column = find_label_column(parts, config.label_column)
    parts = [(name, rows.select_columns([image_column, label_column])) for name, rows in parts]
    labelled, label_names = name_labels(parts, label_column)
    train, evaluation = labelled[0], labelled[-1]
    if config.holdout:
        count = round(len(train) * config.holdout)
        held = stratified(read_labels(train, label_column), count)
        if not 0 < count < len(train):
            raise DataError(f"--holdout {config.holdout:g} of {len(train)} images leaves a side empty; choose another")
        train, evaluation = train.select(np.flatnonzero(~held)), train.select(np.flatnonzero(held))
        eval_name = f"holdout {100 * config.holdout:g}% of {train_name}"
    train = subset(train, config.max_train_images)
    evaluation = subset(evaluation, config.max_eval_images)
    if len(classes := set(read_labels(train, label_column))) < 2:
        only = label_names[classes.pop()]
        raise DataError(f"all images to train on are of one class, {only!r}; at least two are needed")
    return ImageData(train, evaluation, label_names, image_column, label_column, eval_name)


def train_transform(config: DataConfig, mean: Sequence[float], std: Sequence[float]) -> Transform:
    """Makes timm's augmentation: an RGB image to a normalized float tensor, 3 x image_size x image_size."""
    size = _size(config)
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
        # Resize leaves an image alone whose shorter side has this size already.
        resize = transforms.Resize(size, interpolation=str_to_interp_mode(config.interpolation))
        transform = transforms.Compose([resize, ReflectCrop(size, config.crop_padding), *transform.transforms[1:]])
    made: Transform = transform
    return made


def eval_transform(config: DataConfig, mean: Sequence[float], std: Sequence[float]) -> Transform:
    """Makes timm's resize and centre crop: an RGB image to a normalized float tensor, 3 x image_size x image_size."""
    made: Transform = create_transform(
        _size(config), interpolation=config.interpolation, crop_pct=config.crop_pct, mean=tuple(mean), std=tuple(std)
    )
    return made


def train_loader(
    data: ImageData, config: DataConfig, *, mean: Sequence[float], std: Sequence[float], seed: int
) -> DataLoader[Batch]:
    """Makes the loader of shuffled, augmented batches: (float32 NCHW, int64 N); a last part batch is left out.

    The epoch is 0 until `loader.sampler.set_epoch` says otherwise; Accelerate's `set_epoch` arrives there too.

    Raises:
        DataError: There are fewer images than a batch takes.
    """
    if len(data.train) < config.batch_size:
        raise DataError(
            f"{len(data.train)} images to train on do not fill a batch of {config.batch_size}; lower --batch-size"
        )
    samples = _Samples(
        data,
        "train",
        train_transform(config, mean, std),
        EpochSampler(len(data.train), seed, repeats=config.aug_repeats),
    )
    return _loader(samples, config.batch_size, config.workers, drop_last=True)


def eval_loader(
    data: ImageData, config: DataConfig, *, mean: Sequence[float], std: Sequence[float]
) -> DataLoader[Batch]:
    """Makes the loader of all images to evaluate on, in order: (float32 NCHW, int64 N); the last batch may be short."""
    sampler = EpochSampler(len(data.eval), seed=0, shuffle=False)
    samples = _Samples(data, "eval", eval_transform(config, mean, std), sampler)
    return _loader(samples, config.eval_batch_size or config.batch_size, config.workers, drop_last=False)


class EpochSampler(Sampler[tuple[int, int]]):
    """Gives (epoch, index) pairs, in an order that depends on the seed and the epoch alone.

    The pair tells a worker the epoch; workers that outlive an epoch need no other news of it. With `repeats`, so many
    views of an image follow one another, each augmented as if it were of another epoch, far away.
    """

    def __init__(self, length: int, seed: int, shuffle: bool = True, repeats: int = 1) -> None:
        self.length = length
        self.seed = seed
        self.shuffle = shuffle
        self.repeats = repeats
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the iterations that begin from now on."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        order: Sequence[int] = range(self.length)
        if self.shuffle:
            generator = torch.Generator().manual_seed(mix(self.seed, epoch) >> 1)
            order = torch.randperm(self.length, generator=generator).tolist()
        for place in range(self.length):
            yield epoch + (place % self.repeats << 32), order[place // self.repeats]


class UnreadableImageError(DataError):
    """An image cannot be decoded.

    DataLoader raises a worker's exception again with the worker's traceback as its message; its last line is ours.
    """

    def __init__(self, message: str) -> None:
        line = message.rstrip().rsplit("\n", 1)[-1]
        super().__init__(line.removeprefix(f"{__name__}.{type(self).__name__}: "))


class _Samples(Dataset[tuple[torch.Tensor, int]]):
    """Reads (epoch, index) pairs, a batch at once, and augments each by randomness of its own."""

    def __init__(self, data: ImageData, part: str, transform: Transform, sampler: EpochSampler) -> None:
        rows = data.train if part == "train" else data.eval
        self.name = "the training images" if part == "train" else data.eval_name
        self.rows = rows.cast_column(data.image_column, datasets.Image(decode=False))
        self.image_column = data.image_column
        self.label_column = data.label_column
        self.transform = transform
        self.sampler = sampler

    def set_epoch(self, epoch: int) -> None:
        """Tells the sampler: Accelerate 1.15's skip_first_batches on several processes hides it from set_epoch."""
        self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, pair: tuple[int, int]) -> tuple[torch.Tensor, int]:
        return self.__getitems__([pair])[0]

    def __getitems__(self, pairs: Sequence[tuple[int, int]]) -> list[tuple[torch.Tensor, int]]:
        batch = self.rows[[index for _, index in pairs]]
        samples = []
        with global_randomness_kept():
            for (epoch, index), value, label in zip(
                pairs, batch[self.image_column], batch[self.label_column], strict=True
            ):
                image = self._decode(index, value)
                seed_everything(mix(self.sampler.seed, epoch, index))
                samples.append((self.transform(image), label))
        return samples

    def _decode(self, index: int, value: dict[str, Any] | None) -> PIL.Image.Image:
        if value is None:
            raise UnreadableImageError(f"row {index} of {self.name} has no image; remove the row")
        try:
            return decode_rgb(value)
        except Exception as error:  # decoders raise whatever they like on damaged files
            file = f" ({value['path']})" if value.get("path") else ""
            reason = " ".join(str(error).split())[:200]
            raise UnreadableImageError(
                f"row {index} of {self.name}{file} cannot be decoded: {reason}; mend the image or remove the row"
            ) from error


def _loader(samples: _Samples, batch_size: int, workers: int, drop_last: bool) -> DataLoader[Batch]:
    return DataLoader(
        samples,  # type: ignore[arg-type]  # DataLoader's type variable is that of the batches here
        batch_size,
        sampler=samples.sampler,
        drop_last=drop_last,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        generator=torch.Generator(),  # or iter(loader) would draw from the global one
    )


def _collate(samples: list[tuple[torch.Tensor, int]]) -> Batch:
    images, labels = default_collate(samples)
    return images, labels


def _size(config: DataConfig) -> int:
    if config.image_size is None:
        raise ConfigError("--image-size is not set; expected the model's input size in pixels")
    return config.image_size
