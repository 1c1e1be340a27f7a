"""Streamed training images: each once per epoch, shared out evenly, in an order that depends on the seed alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import accelerate
import datasets
import pytest
import torch

from ssia_zoo.data import DataConfig, load_image_data, train_loader
from ssia_zoo.data.streaming import StreamSampler, share_loader
from ssia_zoo.errors import DataError
from tests.helpers.data_folders import (
    AB,
    INT,
    MEAN,
    STD,
    error_text,
    image_folder,
    labelled,
    number_of,
    numbered,
    parquet,
    shards,
)

pytestmark = pytest.mark.usefixtures("datasets_cache")
AUGMENTED = {"auto_augment": "rand-m9-mstd0.5", "random_erase": 0.5}


@pytest.fixture
def twelve(tmp_path: Path) -> DataConfig:
    """Images 0 to 11 in three files of four."""
    parts = [numbered(start, 4) for start in (0, 4, 8)]
    config = parquet(tmp_path / "twelve", train=parts, test=numbered(0, 2))
    return replace(config, streaming=True, shuffle_buffer=0)


def loader(config: DataConfig, seed: int = 0) -> Any:
    return train_loader(load_image_data(config), config, mean=MEAN, std=STD, seed=seed)


def epoch_of(batches: Any, epoch: int = 0) -> list[list[int]]:
    """The numbers of the images in each batch."""
    batches.set_epoch(epoch) if hasattr(batches, "set_epoch") else batches.sampler.set_epoch(epoch)
    return [[number_of(image) for image in images] for images, *_ in batches]


def flat(batches: list[list[int]]) -> list[int]:
    return [number for batch in batches for number in batch]


def processes(config: DataConfig, count: int, epoch: int = 0) -> list[list[list[int]]]:
    """Return the images of each process."""
    shares = []
    for process in range(count):
        batches = loader(config)
        batches.sampler.process, batches.sampler.processes = process, count
        assert len(batches) == 12 // count // config.batch_size
        shares.append(epoch_of(batches, epoch))
    return shares


# -- content


@pytest.mark.covers("max_train_images", "num_classes")
@pytest.mark.parametrize(
    "make",
    [
        lambda folder: parquet(folder, train=[numbered(0, 5), numbered(5, 7)], test=numbered(0, 2)),
        lambda folder: replace(
            shards(folder, train=[[*range(5)], [*range(5, 12)]], test=[[0, 1]]), max_train_images=12
        ),
        lambda folder: shards(folder, "json", train=[[*range(12)]], test=[[0, 1]]),
    ],
    ids=["parquet", "webdataset", "webdataset-json"],
)
@pytest.mark.parametrize("shuffle_buffer", [0, 5])
def test_an_epoch_has_each_image_once_with_its_label(
    tmp_path: Path, make: Callable[[Path], DataConfig], shuffle_buffer: int
) -> None:
    config = replace(make(tmp_path / "d"), streaming=True, shuffle_buffer=shuffle_buffer, num_classes=2)
    config = replace(config, max_train_images=12)
    data = load_image_data(config)
    assert (len(data.train), len(data.eval)) == (12, 2)
    batches = train_loader(data, config, mean=MEAN, std=STD, seed=0)
    for epoch in range(2):
        batches.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        seen = [(number_of(x), int(y)) for images, labels, _ in batches for x, y in zip(images, labels, strict=True)]
        assert sorted(seen) == [(number, number % 2) for number in range(12)]


def test_an_image_folder_streams_with_the_names_of_its_classes(tmp_path: Path) -> None:
    config = image_folder(tmp_path / "d", train={"cat": 3, "dog": 3}, test={"dog": 2})
    config = replace(config, streaming=True, max_train_images=6)
    data = load_image_data(config)
    assert data.label_names == ("cat", "dog")
    assert data.eval["label"] == [1, 1]
    labels = torch.cat([labels for _, labels, _ in train_loader(data, config, mean=MEAN, std=STD, seed=0)])
    assert sorted(labels.tolist()) == [0, 0, 0, 1, 1, 1]


def test_digits_can_be_streamed_too() -> None:
    assert len(load_image_data(DataConfig("digits", streaming=True)).train) == 1437


# -- order


@pytest.mark.covers("shuffle_buffer", "streaming")
def test_without_a_buffer_images_come_as_they_are_stored(twelve: DataConfig) -> None:
    assert flat(epoch_of(loader(twelve))) == list(range(12))


def test_a_buffer_gives_each_epoch_and_seed_another_order(twelve: DataConfig) -> None:
    config = replace(twelve, shuffle_buffer=12)
    orders = [flat(epoch_of(loader(config, seed), epoch)) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert all(sorted(order) == list(range(12)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert orders[1] == flat(epoch_of(loader(config, 0), 1))


def test_workers_change_nothing(twelve: DataConfig) -> None:
    config = replace(twelve, shuffle_buffer=6, **AUGMENTED)
    expected = [images for images, *_ in loader(config)]
    for workers in (1, 3):  # three workers, and files for one and a half each
        images = [images for images, *_ in loader(replace(config, workers=workers))]
        assert all(torch.equal(*pair) for pair in zip(images, expected, strict=True))


def test_skipping_batches_is_exact_with_a_buffer_too(twelve: DataConfig) -> None:
    accelerator = accelerate.Accelerator(cpu=True)
    config = replace(twelve, shuffle_buffer=6, **AUGMENTED)

    def prepared() -> Any:
        batches = share_loader(loader(config), accelerator)
        batches.set_epoch(3)
        return batches

    whole = [images for images, *_ in prepared()]
    rest = [images for images, *_ in accelerate.skip_first_batches(prepared(), 2)]
    assert all(torch.equal(*pair) for pair in zip(rest, whole[2:], strict=True))


# -- several processes


def test_files_are_shared_out_if_they_can_be_evenly(twelve: DataConfig) -> None:
    shares = processes(twelve, 3)
    assert [set(flat(share)) for share in shares] == [set(range(0, 4)), set(range(4, 8)), set(range(8, 12))]


def test_otherwise_each_process_takes_every_nth_image(twelve: DataConfig) -> None:
    shares = processes(twelve, 2)
    assert [flat(share) for share in shares] == [list(range(0, 12, 2)), list(range(1, 12, 2))]
    assert [sorted(one + other) for one, other in zip(*shares, strict=True)] == epoch_of(
        loader(replace(twelve, batch_size=4))
    ), "a step of two processes has the images of one process's step"
    buffered = processes(replace(twelve, shuffle_buffer=6), 2, epoch=1)
    assert sorted(flat(buffered[0]) + flat(buffered[1])) == list(range(12))


def test_a_process_of_smaller_files_takes_as_many_steps(tmp_path: Path) -> None:
    config = parquet(tmp_path / "d", train=[numbered(0, 9), numbered(9, 3)], test=numbered(0, 2))
    shares = processes(replace(config, streaming=True, shuffle_buffer=0), 2)
    assert [flat(share) for share in shares] == [[0, 1, 2, 3, 4, 5], [9, 10, 11, 9, 10, 11]]


def test_accelerate_does_not_share_a_stream_out_again(twelve: DataConfig) -> None:
    batches = share_loader(loader(twelve), accelerate.Accelerator(cpu=True))
    assert isinstance(batches.batch_sampler.sampler, StreamSampler)
    assert flat(epoch_of(batches)) == list(range(12))


# -- errors


def test_a_stream_of_unknown_length_is_an_error(tmp_path: Path) -> None:
    config = replace(shards(tmp_path / "d", train=[[0, 1, 2]], test=[[0, 1]]), streaming=True, num_classes=2)
    assert "is unknown before it is read; set `max_train_images`" in error_text(config)
    assert len(load_image_data(replace(config, max_train_images=3)).train) == 3


@pytest.mark.parametrize(
    ("labels", "feature", "message"),
    [
        ([0, 1], INT, "holds integers without names; set `num_classes`"),
        (["a", "b"], datasets.Value("string"), "holds strings, whose classes are unknown before all is read"),
        ([0.5, 1.5], datasets.Value("float32"), "has the type float32"),
        ([0, 0], datasets.ClassLabel(names=["a"]), "all training images are of one class, 'a'"),
    ],
)
def test_labels_without_known_classes_are_refused(
    tmp_path: Path, labels: list[Any], feature: Any, message: str
) -> None:
    split = labelled(labels, feature)
    assert message in error_text(replace(parquet(tmp_path / "d", train=split, test=split), streaming=True))


@pytest.mark.parametrize("label", [None, -1, 2])
def test_an_invalid_label_stops_the_stream(tmp_path: Path, label: int | None) -> None:
    config = parquet(tmp_path / "d", train=labelled([0, 1, label, 0], INT), test=labelled([0, 1], INT))
    config = replace(config, streaming=True, shuffle_buffer=0, num_classes=2)
    message = error_text(config, lambda c: list(loader(c)))
    assert f"training image 2 of the stream has the label {label}; expected 0 to 1: label or remove it" in message


def test_the_error_of_a_broken_stream_names_resume(twelve: DataConfig) -> None:
    batches = iter(loader(replace(twelve, workers=1)))
    last = Path(twelve.dataset) / "train-00002-of-00003.parquet"
    broken = loader(twelve)
    last.write_bytes(b"gone")
    with pytest.raises(
        DataError,
        match=r"the stream of training images broke off \(.*continue from the last checkpoint with `resume` auto",
    ):
        list(broken)
    del batches


def test_a_stream_smaller_than_a_batch_is_refused(twelve: DataConfig) -> None:
    message = error_text(replace(twelve, batch_size=13), loader)
    assert message == "12 training images do not fill a batch of 13; lower `batch_size`"


def test_class_names_are_checked_before_the_stream_is_read(tmp_path: Path) -> None:
    other = labelled([0, 1], datasets.ClassLabel(names=["b", "c"]))
    config = replace(parquet(tmp_path / "d", train=labelled([0, 1], AB), test=other), streaming=True)
    assert "'test' has images of 1 class: c" in error_text(config)


def test_repeated_augmentation_gives_views_of_an_image_side_by_side(twelve: DataConfig) -> None:
    config = replace(twelve, aug_repeats=2, batch_size=4)
    batches = list(loader(config))
    assert [[number_of(image) for image in images] for images, *_ in batches] == [
        [0, 0, 1, 1],
        [2, 2, 3, 3],
        [4, 4, 5, 5],
    ]
    images = next(iter(loader(replace(config, **AUGMENTED))))[0]
    assert not torch.equal(images[0], images[1])


def test_a_stream_of_files_that_are_also_evaluated_is_refused(tmp_path: Path) -> None:
    config = replace(image_folder(tmp_path, train={"a": 2, "b": 2}), streaming=True)
    (tmp_path / "val").symlink_to("train")
    assert "4 images of 'validation' are also training images" in error_text(config)
