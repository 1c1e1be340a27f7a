"""Finding data sets by name, decoding every kind of image, and augmentation that belongs to the sample."""

from __future__ import annotations

import multiprocessing
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import accelerate
import accelerate.data_loader
import datasets
import numpy as np
import pytest
import torch

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
from ssia_zoo.errors import ConfigError
from tests.helpers.data_folders import (
    AB,
    IMAGE,
    INT,
    MEAN,
    STD,
    image_folder,
    labelled,
    one_line,
    parquet,
    pictures,
    rows,
    shards,
)

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


pytestmark = pytest.mark.usefixtures("datasets_cache")


@pytest.fixture(scope="module")
def data() -> ImageData:
    return load_image_data(AUGMENTED)


def train(data: ImageData, config: DataConfig = AUGMENTED, seed: int = 3) -> torch.utils.data.DataLoader[Any]:
    return train_loader(data, config, mean=MEAN, std=STD, seed=seed)


def by_index(loader: Any, epoch: int = 0) -> dict[int, torch.Tensor]:
    """The augmented image of each sample index that the loader gives in this epoch."""
    loader.sampler.set_epoch(epoch)
    order = [index for _, index in loader.sampler]
    images = torch.cat([images for images, *_ in loader])
    return dict(zip(order, images, strict=False))


# -- data sets


def test_a_folder_called_digits_is_not_taken_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    load_image_data(DataConfig("digits"))
    assert "./digits" not in caplog.text
    (tmp_path / "digits").mkdir()
    assert len(load_image_data(DataConfig("digits")).eval) == 360
    assert "the folder of that name here is not used: ./digits names it" in caplog.text


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


@pytest.mark.covers("dataset")
def test_an_image_folder_is_found_with_a_class_for_each_folder(tmp_path: Path) -> None:
    config = image_folder(tmp_path / "pets", train={"cat": 2, "dog": 2}, test={"cat": 2, "dog": 2})
    found = load_image_data(config)
    assert (len(found.train), len(found.eval), found.eval_name) == (4, 4, "test")
    assert found.label_names == ("cat", "dog")
    assert next(iter(train(found, config)))[0].shape == (2, 3, 8, 8)


def test_webdataset_shards_are_found_with_labels_from_cls_or_json(tmp_path: Path) -> None:
    for label, column in (("cls", "cls"), ("json", "json.label")):
        config = shards(tmp_path / label, label, train=[[0, 1, 2], [3]], test=[[4, 5]])
        found = load_image_data(config)
        assert (len(found.train), len(found.eval), found.eval_name) == (4, 2, "test")
        assert (found.image_column, found.label_column, found.label_names) == ("png", column, ("0", "1"))
        assert found.train[column] == [0, 1, 0, 1]
    assert "--label-column 'json' holds" not in one_line(replace(config, label_column="json.width"))


@pytest.mark.covers("train_split", "eval_split", "image_column", "label_column")
def test_splits_and_columns_can_be_named(tmp_path: Path) -> None:
    columns = {"image": pictures(3), "mask": pictures(3), "fine": [0, 1, 1], "coarse": [1, 0, 1]}
    table = rows(columns, image=IMAGE, mask=IMAGE, fine=AB, coarse=datasets.ClassLabel(names=["x", "y"]))
    config = parquet(tmp_path / "two", train=table, validation=table, test=table.select([0, 1]))
    assert "choose one by --image-column: image, mask" in one_line(config)
    config = replace(config, image_column="mask")
    assert "choose one by --label-column: fine, coarse" in one_line(config)
    found = load_image_data(replace(config, label_column="coarse", train_split="test", eval_split="train"))
    assert (found.image_column, found.label_names, found.eval_name) == ("mask", ("x", "y"), "train")
    assert (len(found.train), len(found.eval)) == (2, 3)
    assert found.train.column_names == ["mask", "coarse"]


@pytest.mark.parametrize(
    ("feature", "train_labels", "test_labels", "names"),
    [
        ("string", ["z", "b", "m"], ["b", "m"], ("b", "m", "z")),
        ("int64", [0, 3], [3, 0], ("0", "1", "2", "3")),
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


@pytest.mark.covers("holdout")
def test_a_holdout_is_stratified_fixed_and_apart_from_what_is_trained_on() -> None:
    config = DataConfig("digits", holdout=0.1)
    found, again = load_image_data(config), load_image_data(config)
    assert (len(found.train), len(found.eval), found.eval_name) == (1293, 144, "holdout 10% of train")
    assert set(np.bincount(found.eval["label"])) <= {14, 15}
    assert found.eval["label"][:] == again.eval["label"][:]
    stored = datasets.Image(decode=False)
    seen = {row["image"]["bytes"] for row in found.train.cast_column("image", stored)}
    assert not seen & {row["image"]["bytes"] for row in found.eval.cast_column("image", stored)}


@pytest.mark.covers("max_train_images", "max_eval_images")
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
    assert "no split to evaluate on, only the one to train on; hold out a part of it by --holdout" in one_line(config)
    assert "--train-split can be one of: train" in one_line(replace(config, train_split="trains"))
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


def test_an_empty_split_and_other_classes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = labelled([0, 1], datasets.ClassLabel(names=["b", "c"]))
    config = parquet(tmp_path / "d", train=labelled([0, 1]), test=other)
    assert "'test' has images of 1 class: c, in 'label'; 'train' knows only 2 classes: a, b" in one_line(config)
    monkeypatch.setattr("ssia_zoo.data.sources.Digits.load", lambda *_, **__: labelled([]))
    assert "the split 'train' of 'digits' is empty" in one_line(DataConfig("digits"))


def test_class_names_in_another_order_are_the_same_classes(tmp_path: Path) -> None:
    other = labelled([0, 1, 1], datasets.ClassLabel(names=["b", "a"]))
    found = load_image_data(parquet(tmp_path / "d", train=labelled([0, 1]), test=other))
    assert found.label_names == ("a", "b")
    assert found.eval["label"] == [1, 0, 0]
    assert found.eval.features["label"].names == ["a", "b"]


def test_a_class_that_is_evaluated_but_not_trained_on_is_refused(tmp_path: Path) -> None:
    config = image_folder(tmp_path / "d", train={"cat": 1, "dog": 1}, test={"cat": 1, "dogs": 1})
    assert "'test' has images of 1 class: dogs, in 'label'; 'train' knows only 2 classes: cat, dog" in one_line(config)
    config = image_folder(tmp_path / "e", train={"cat": 1, "dog": 1, "cow": 1}, test={"cat": 1, "dog": 1})
    assert load_image_data(config).label_names == ("cat", "cow", "dog")


def test_images_of_one_folder_are_told_that_they_have_no_classes(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / "d" / split).mkdir(parents=True)
        pictures(1)[0].save(tmp_path / "d" / split / "0.png")
    says = one_line(DataConfig(str(tmp_path / "d")))
    assert "has 1 images but no classes; expected at least two, such as two subfolders" in says


@pytest.mark.covers("num_classes")
def test_a_number_of_classes_that_the_data_contradicts_is_refused(tmp_path: Path) -> None:
    config = parquet(tmp_path / "d", train=labelled([0, 1]), test=labelled([0, 1]))
    assert "--num-classes is 3; the column 'label' has 2 classes" in one_line(replace(config, num_classes=3))
    numbers = parquet(tmp_path / "n", train=labelled([0, 2], INT), test=labelled([0], INT))
    assert "row 1 of 'train' has the label 2; expected 0 to 1" in one_line(replace(numbers, num_classes=2))
    assert load_image_data(replace(numbers, num_classes=5)).label_names == ("0", "1", "2", "3", "4")


def test_augmentation_that_timm_cannot_make_names_the_flag() -> None:
    with pytest.raises(ConfigError, match="--auto-augment 'bogus'"):
        train_transform(DataConfig("digits", image_size=8, auto_augment="bogus"), MEAN, STD)
    with pytest.raises(ConfigError, match="--image-size is not set"):
        eval_transform(DataConfig("digits"), MEAN, STD)


# -- loaders


@pytest.mark.covers("image_size", "batch_size")
def test_batches_are_normalized_float_images_and_whole_number_labels(data: ImageData) -> None:
    images, labels = next(iter(eval_loader(data, AUGMENTED, mean=MEAN, std=STD)))
    assert (images.dtype, images.shape) == (torch.float32, (8, 3, 12, 12))
    assert (labels.dtype, labels.tolist()) == (torch.int64, data.eval["label"][:8])
    assert images.min() == -2
    assert images.max() <= 2


@pytest.mark.covers("batch_size", "eval_batch_size")
def test_training_drops_the_part_batch_and_evaluation_keeps_it_in_order(data: ImageData) -> None:
    assert [len(labels) for _, labels, _ in train(data)] == [8] * 5
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


@pytest.mark.covers("workers")
@pytest.mark.parametrize("workers", [0, 1])
def test_as_many_processes_load_images_as_asked_for(data: ImageData, workers: int) -> None:
    config = replace(AUGMENTED, workers=workers)
    for loader in (train(data, config), eval_loader(data, config, mean=MEAN, std=STD)):
        before = set(multiprocessing.active_children())
        next(iter(loader))
        assert len(set(multiprocessing.active_children()) - before) == workers


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
    whole = [images for images, *_ in loader]
    assert torch.equal(torch.cat(whole), torch.stack(list(expected.values())))
    resumed = accelerator.prepare(train(data, replace(AUGMENTED, workers=1)))
    resumed.set_epoch(2)
    rest = [images for images, *_ in accelerate.skip_first_batches(resumed, 3)]
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
        batches.append([images for images, *_ in loader])
        # Here the skipping loader has to carry the epoch by itself.
        skipping = accelerate.skip_first_batches(shard(process), 1)
        skipping.set_epoch(2)
        assert torch.equal(torch.cat([images for images, *_ in skipping]), batches[-1][1])
    assert [len(part) for part in batches] == [2, 2]  # of five batches the odd one is left out
    woven = torch.cat([batches[0][0], batches[1][0], batches[0][1], batches[1][1]])
    assert torch.equal(woven, torch.stack(list(expected.values()))[:32])
