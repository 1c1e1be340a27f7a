"""Finding data sets by name, decoding every kind of image, and augmentation that belongs to the sample."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import accelerate
import accelerate.data_loader
import datasets
import huggingface_hub
import numpy as np
import PIL.Image
import pytest
import torch
from torchvision import transforms

from ssia_zoo._images import ReflectCrop, decode_rgb
from ssia_zoo.data import (
    DataConfig,
    EpochSampler,
    ImageData,
    digits,
    eval_loader,
    eval_transform,
    load_image_data,
    train_loader,
    train_transform,
)
from ssia_zoo.errors import ConfigError, DataError

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
IMAGE = datasets.Image()
AB = datasets.ClassLabel(names=["a", "b"])
# Draws from Python's, NumPy's and torch's generators.
AUGMENTED = DataConfig(
    "digits",
    image_size=12,
    batch_size=8,
    workers=0,
    auto_augment="rand-m9-mstd0.5",
    random_erase=0.5,
    max_train_images=44,
    max_eval_images=20,
)


@pytest.fixture(autouse=True)
def _offline_with_a_cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


@pytest.fixture(scope="module")
def data() -> ImageData:
    return load_image_data(AUGMENTED)


def pictures(count: int, size: int = 8) -> list[PIL.Image.Image]:
    numbers = np.random.default_rng(0)
    return [PIL.Image.fromarray(numbers.integers(0, 256, (size, size, 3), dtype=np.uint8)) for _ in range(count)]


def rows(columns: dict[str, Any], **features: Any) -> datasets.Dataset:
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def labelled(labels: list[Any], feature: Any = AB) -> datasets.Dataset:
    return rows({"image": pictures(len(labels)), "label": labels}, image=IMAGE, label=feature)


def parquet(folder: Path, **splits: datasets.Dataset) -> DataConfig:
    folder.mkdir(parents=True, exist_ok=True)
    for name, split in splits.items():
        split.to_parquet(folder / f"{name}-00000-of-00001.parquet")
    return DataConfig(str(folder), image_size=8, batch_size=2, workers=0)


def one_line(config: DataConfig, use: Callable[[DataConfig], Any] = load_image_data) -> str:
    with pytest.raises(DataError) as caught:
        use(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def train(data: ImageData, config: DataConfig = AUGMENTED, seed: int = 3) -> torch.utils.data.DataLoader[Any]:
    return train_loader(data, config, mean=MEAN, std=STD, seed=seed)


def by_index(loader: Any, epoch: int = 0) -> dict[int, torch.Tensor]:
    """The augmented image of each sample index that the loader gives in this epoch."""
    loader.sampler.set_epoch(epoch)
    order = [index for _, index in loader.sampler]
    images = torch.cat([images for images, _ in loader])
    return dict(zip(order, images, strict=False))


# -- data sets


def test_digits_are_grey_8x8_in_a_fixed_stratified_split() -> None:
    first, again = digits(), digits()
    assert {name: len(split) for name, split in first.items()} == {"train": 1437, "test": 360}
    assert first["train"][0]["image"].size == (8, 8)
    assert first["train"][0]["image"].mode == "L"
    assert first["train"].features["label"].names == [str(digit) for digit in range(10)]
    assert max(np.asarray(image).max() for image in first["train"][:50]["image"]) == 255
    assert set(np.bincount(first["test"]["label"])) <= {34, 35, 36, 37}
    assert all(first[name][:]["label"] == again[name][:]["label"] for name in first)
    assert np.array_equal(np.asarray(first["test"][7]["image"]), np.asarray(again["test"][7]["image"]))


def test_a_parquet_folder_is_found_with_its_splits_columns_and_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet(tmp_path / "here", train=labelled([0, 1, 1]), valid=labelled([1, 0]), test=labelled([0]))
    monkeypatch.chdir(tmp_path)
    found = load_image_data(DataConfig("here"))
    assert (len(found.train), len(found.eval), found.eval_name) == (3, 2, "validation")
    assert (found.image_column, found.label_column, found.label_names) == ("image", "label", ("a", "b"))


def test_an_image_folder_is_found_with_a_class_for_each_folder(tmp_path: Path) -> None:
    for place in ("train/cat", "train/dog", "test/cat", "test/dog"):
        (tmp_path / "pets" / place).mkdir(parents=True)
        for number, picture in enumerate(pictures(2)):
            picture.save(tmp_path / "pets" / place / f"{number}.png")
    found = load_image_data(DataConfig(str(tmp_path / "pets"), image_size=8, batch_size=2, workers=0))
    assert (len(found.train), len(found.eval), found.eval_name) == (4, 4, "test")
    assert found.label_names == ("cat", "dog")
    assert next(iter(train(found, DataConfig("", image_size=8, batch_size=2, workers=0))))[0].shape == (2, 3, 8, 8)


def test_splits_and_columns_can_be_named(tmp_path: Path) -> None:
    columns = {"image": pictures(3), "mask": pictures(3), "fine": [0, 1, 1], "coarse": [1, 0, 1]}
    table = rows(columns, image=IMAGE, mask=IMAGE, fine=AB, coarse=datasets.ClassLabel(names=["x", "y"]))
    config = parquet(tmp_path / "two", train=table, validation=table, test=table)
    assert "choose one by --image-column: image, mask" in one_line(config)
    config = replace(config, image_column="mask")
    assert "choose one by --label-column: fine, coarse" in one_line(config)
    found = load_image_data(replace(config, label_column="coarse", train_split="test", eval_split="train"))
    assert (found.image_column, found.label_names, found.eval_name) == ("mask", ("x", "y"), "train")
    assert found.train.column_names == ["mask", "coarse"]


@pytest.mark.parametrize(
    ("feature", "train_labels", "test_labels", "names"),
    [
        ("string", ["z", "b"], ["b", "m"], ("b", "m", "z")),
        ("int64", [0, 2], [3, 0], ("0", "1", "2", "3")),
        ("bool", [True, False], [True], ("0", "1")),
    ],
)
def test_plain_labels_become_classes_named_alike_in_both_splits(
    tmp_path: Path, feature: str, train_labels: list[Any], test_labels: list[Any], names: tuple[str, ...]
) -> None:
    value = datasets.Value(feature)
    config = parquet(tmp_path / "d", train=labelled(train_labels, value), test=labelled(test_labels, value))
    found = load_image_data(config)
    assert found.label_names == names
    assert found.eval.features["label"].names == list(names)
    read = [names[label] for label in found.train["label"]]
    assert read == [str(int(x)) if feature != "string" else x for x in train_labels]


def test_a_holdout_is_stratified_fixed_and_apart_from_what_is_trained_on() -> None:
    config = DataConfig("digits", holdout=0.1)
    found, again = load_image_data(config), load_image_data(config)
    assert (len(found.train), len(found.eval), found.eval_name) == (1293, 144, "holdout 10% of train")
    assert set(np.bincount(found.eval["label"])) <= {14, 15}
    assert found.eval["label"][:] == again.eval["label"][:]
    stored = datasets.Image(decode=False)
    seen = {row["image"]["bytes"] for row in found.train.cast_column("image", stored)}
    assert not seen & {row["image"]["bytes"] for row in found.eval.cast_column("image", stored)}


def test_a_limit_chooses_the_same_images_of_many_classes_each_time(data: ImageData) -> None:
    assert (len(data.train), len(data.eval)) == (44, 20)
    assert len(set(data.train["label"])) == 10
    assert load_image_data(AUGMENTED).train["label"][:] == data.train["label"][:]


# -- errors


def test_what_cannot_be_found_is_said_in_one_line(tmp_path: Path) -> None:
    assert "does not exist; give an existing folder" in one_line(DataConfig("./nowhere"))
    assert "does not exist" in one_line(DataConfig(str(tmp_path / "nowhere")))
    assert "check the id and the network" in one_line(DataConfig("nobody/nothing"))
    (tmp_path / "file.parquet").touch()
    assert "is a file; give the folder" in one_line(DataConfig(str(tmp_path / "file.parquet")))
    (tmp_path / "empty").mkdir()
    assert "check the files in this folder" in one_line(DataConfig(str(tmp_path / "empty")))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "train-00000-of-00001.parquet").write_bytes(b"not parquet")
    assert "check the files in this folder" in one_line(DataConfig(str(tmp_path / "broken")))


def test_missing_splits_and_columns_name_what_there_is_and_the_flag(tmp_path: Path) -> None:
    config = parquet(tmp_path / "d", train=labelled([0, 1]))
    assert "name one of these by --eval-split: train, or hold out" in one_line(config)
    assert "--train-split can be one of: train" in one_line(replace(config, train_split="training"))
    config = replace(config, eval_split="train")
    assert "--image-column 'label' is not a column of images; found: image" in one_line(
        replace(config, image_column="label")
    )
    assert "--label-column 'kind' is not" in one_line(replace(config, label_column="kind"))
    assert "--label-column 'image' is not a column of labels; found: label" in one_line(
        replace(config, label_column="image")
    )
    plain = rows({"x": [0, 1], "y": [0, 1]}, x=datasets.Value("int64"), y=datasets.Value("int64"))
    assert "no image column was found among x, y; name it by --image-column" in one_line(
        parquet(tmp_path / "plain", train=plain, test=plain)
    )


INT = datasets.Value("int64")


@pytest.mark.parametrize(
    ("train_rows", "test_rows", "says"),
    [
        (labelled([0, 1]), labelled([0, 1, -1]), "row 2 of 'test' has the label -1; expected 0 to 1"),
        (labelled([0, None, 1], INT), labelled([0], INT), "row 1 of 'train' has no label"),
        (labelled([-1, -1], INT), labelled([-1], INT), "row 0 of 'train' has the label -1; expected 0 or more"),
        (labelled([1, 1]), labelled([0, 1]), "all images to train on are of one class, 'b'"),
        (labelled([0.5, 1.5], datasets.Value("float32")), labelled([0.5], datasets.Value("float32")), "holds float32"),
        (labelled([0, 1]), labelled([]), "no data"),
    ],
)
def test_labels_that_cannot_be_trained_on_are_refused(
    tmp_path: Path, train_rows: datasets.Dataset, test_rows: datasets.Dataset, says: str
) -> None:
    assert says in one_line(parquet(tmp_path / "d", train=train_rows, test=test_rows))


def test_splits_that_are_empty_or_name_other_classes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    other = labelled([0, 1], datasets.ClassLabel(names=["b", "a"]))
    splits = datasets.DatasetDict({"train": labelled([0, 1]), "test": other, "dev": labelled([])})
    monkeypatch.setattr("ssia_zoo.data.load_splits", lambda name: splits)
    assert "the split 'dev' of 'x' is empty" in one_line(DataConfig("x"))
    del splits["dev"]
    assert "'train' and 'test' name different classes in 'label' (2: a, b; 2: b, a)" in one_line(DataConfig("x"))


def test_a_training_set_below_one_batch_is_refused(data: ImageData) -> None:
    says = one_line(replace(AUGMENTED, batch_size=45), lambda config: train(data, config))
    assert says == "44 images to train on do not fill a batch of 45; lower --batch-size"


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_decoded_is_named_in_one_line(tmp_path: Path, workers: int) -> None:
    table = rows({"image": [b"GIF89a no more", *pictures(3)], "label": [0, 1, 0, 1]}, image=IMAGE, label=AB)
    config = replace(parquet(tmp_path / "d", train=table, test=table), workers=workers)
    found = load_image_data(config)
    says = one_line(config, lambda c: list(eval_loader(found, c, mean=MEAN, std=STD)))
    assert re.fullmatch("row 0 of test.* cannot be decoded: .*; mend the image or remove the row", says)
    says = one_line(config, lambda c: list(train(found, c)))
    assert says.startswith("row 0 of the training images")


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"holdout": 1.0}, "--holdout is 1.0; expected"),
        ({"batch_size": 0}, "--batch-size is 0; expected at least 1 image"),
        ({"scale": (0.5, 0.1)}, "--scale is"),
        ({"interpolation": "cubic"}, "--interpolation is 'cubic'; expected one of nearest"),
        ({"crop_padding": 8, "image_size": 8}, "--crop-padding is 8"),
    ],
)
def test_settings_out_of_range_name_the_flag(setting: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        DataConfig("digits", **setting)


def test_augmentation_that_timm_cannot_make_names_the_flag() -> None:
    with pytest.raises(ConfigError, match="--auto-augment 'bogus'"):
        train_transform(DataConfig("digits", image_size=8, auto_augment="bogus"), MEAN, STD)
    with pytest.raises(ConfigError, match="--image-size is not set"):
        eval_transform(DataConfig("digits"), MEAN, STD)


# -- images


def stored(image: PIL.Image.Image, tmp_path: Path, suffix: str, **options: Any) -> np.ndarray[Any, Any]:
    path = tmp_path / f"image{suffix}"
    image.save(path, **options)
    decoded = decode_rgb({"bytes": path.read_bytes(), "path": None})
    assert decoded.mode == "RGB"
    return np.asarray(decoded).astype(int)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_mode_is_read_as_pillow_converts_it_to_rgb(tmp_path: Path, mode: str) -> None:
    image = pictures(1)[0].convert(mode)
    read = stored(image, tmp_path, ".tiff" if mode == "CMYK" else ".png")
    assert np.array_equal(read, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    image = PIL.Image.fromarray(np.array([[0, 257, 32896, 65535]], dtype=np.uint16))
    assert image.mode.startswith("I;16")
    assert stored(image, tmp_path, suffix)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_thirty_two_bit_pixels_are_refused_for_they_have_no_range(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no fixed range"):
        stored(PIL.Image.fromarray(np.zeros((2, 2), dtype=np.float32)), tmp_path, ".tiff")


def test_a_photograph_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    image = PIL.Image.new("RGB", (16, 8))
    image.paste((255, 255, 255), (0, 0, 8, 8))  # the left half is white
    exif = PIL.Image.Exif()
    exif[PIL.Image.ExifTags.Base.Orientation] = 6  # to be turned clockwise
    read = stored(image, tmp_path, ".jpg", exif=exif)
    assert read.shape == (16, 8, 3)
    assert read[:6].min() > 200
    assert read[10:].max() < 50


@pytest.mark.parametrize("size", [(8, 8), (11, 8)])
def test_the_reflected_crop_is_that_of_torchvision(size: tuple[int, int]) -> None:
    image = pictures(1, 16)[0].resize(size)
    theirs = transforms.RandomCrop(8, padding=3, padding_mode="reflect")
    for seed in range(5):
        torch.manual_seed(seed)
        expected = np.asarray(theirs(image))
        torch.manual_seed(seed)
        assert np.array_equal(np.asarray(ReflectCrop(8, 3)(image)), expected)


def test_crop_padding_resizes_only_what_has_another_size() -> None:
    config = DataConfig("digits", image_size=8, crop_padding=2, hflip=0.0)
    transform = train_transform(config, MEAN, STD)
    small, large = pictures(1, 8)[0], pictures(1, 20)[0]
    assert transform(large).shape == (3, 8, 8)
    values = set(np.asarray(small).reshape(-1, 3).astype(np.float32).ravel())
    restored = ((transform(small) * 0.25 + 0.5) * 255).round()
    assert set(restored.ravel().tolist()) <= values


# -- loaders


def test_batches_are_normalized_float_images_and_whole_number_labels(data: ImageData) -> None:
    images, labels = next(iter(eval_loader(data, AUGMENTED, mean=MEAN, std=STD)))
    assert (images.dtype, images.shape) == (torch.float32, (8, 3, 12, 12))
    assert (labels.dtype, labels.tolist()) == (torch.int64, data.eval["label"][:8])
    assert images.min() == -2
    assert images.max() <= 2


def test_training_drops_the_part_batch_and_evaluation_keeps_it_in_order(data: ImageData) -> None:
    assert [len(labels) for _, labels in train(data)] == [8] * 5
    loader = eval_loader(data, replace(AUGMENTED, eval_batch_size=6), mean=MEAN, std=STD)
    labels = [labels.tolist() for _, labels in loader]
    assert [len(batch) for batch in labels] == [6, 6, 6, 2]
    assert [label for batch in labels for label in batch] == data.eval["label"][:]


def test_a_sample_is_augmented_alike_whatever_the_workers_and_the_batch_size(data: ImageData) -> None:
    expected = by_index(train(data), epoch=1)
    for workers, batch_size in ((1, 8), (2, 8), (0, 5), (2, 11)):
        loader = train(data, replace(AUGMENTED, workers=workers, batch_size=batch_size))
        random.seed(workers)  # what was drawn before must not matter
        by_index(loader, epoch=0)
        images = by_index(loader, epoch=1)
        common = expected.keys() & images.keys()
        assert len(common) >= 38
        assert all(torch.equal(images[index], expected[index]) for index in common)


def test_epochs_and_seeds_give_other_orders_and_other_augmentation(data: ImageData) -> None:
    first, second, other = by_index(train(data), 0), by_index(train(data), 1), by_index(train(data, seed=4), 0)
    for images in (second, other):
        assert list(images) != list(first)
        common = first.keys() & images.keys()
        assert sum(not torch.equal(images[index], first[index]) for index in common) > 0.9 * len(common)
    sampler = EpochSampler(10, seed=0)
    assert sorted(index for _, index in sampler) == list(range(10))


def test_loading_in_the_training_process_leaves_the_global_generators_alone(data: ImageData) -> None:
    def drawn() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    def seed() -> None:
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)

    seed()
    expected = drawn()
    seed()
    list(train(data))
    list(eval_loader(data, AUGMENTED, mean=MEAN, std=STD))
    assert drawn() == expected


def test_accelerate_sets_the_epoch_and_skips_batches_exactly(data: ImageData) -> None:
    accelerator = accelerate.Accelerator(cpu=True)
    expected = by_index(train(data), epoch=2)
    loader = accelerator.prepare(train(data))
    loader.set_epoch(2)
    whole = [images for images, _ in loader]
    assert torch.equal(torch.cat(whole), torch.stack(list(expected.values())))
    resumed = accelerator.prepare(train(data, replace(AUGMENTED, workers=1)))
    resumed.set_epoch(2)
    rest = [images for images, _ in accelerate.skip_first_batches(resumed, 3)]
    assert torch.equal(torch.cat(rest), torch.cat(whole[3:]))


def test_two_processes_share_an_epoch_without_overlap_and_skip_alike(data: ImageData) -> None:
    accelerate.Accelerator(cpu=True)

    def shard(process: int) -> Any:
        loader = train(data)
        return accelerate.data_loader.prepare_data_loader(loader, num_processes=2, process_index=process)

    expected = by_index(train(data), epoch=2)
    batches: list[list[torch.Tensor]] = []
    for process in range(2):
        loader = shard(process)
        loader.set_epoch(2)
        batches.append([images for images, _ in loader])
        # Here the skipping loader has to carry the epoch by itself.
        skipping = accelerate.skip_first_batches(shard(process), 1)
        skipping.set_epoch(2)
        assert torch.equal(torch.cat([images for images, _ in skipping]), batches[-1][1])
    assert [len(part) for part in batches] == [2, 2]  # of five batches the odd one is left out
    woven = torch.cat([batches[0][0], batches[1][0], batches[0][1], batches[1][1]])
    assert torch.equal(woven, torch.stack(list(expected.values()))[:32])
