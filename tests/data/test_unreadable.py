"""Images that cannot be decoded are named, skipped and counted, up to a limit."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import accelerate
import datasets
import PIL.Image
import pytest
import torch

from ssia_zoo.data import (
    NOT_COUNTED,
    DataConfig,
    UnreadableImageError,
    UnreadableImages,
    eval_loader,
    load_image_data,
    train_loader,
)
from ssia_zoo.errors import DataError
from ssia_zoo.evaluation.metrics import evaluate
from tests.helpers.data_folders import AB, IMAGE, MEAN, STD, encoded, number_of, parquet, pictures, plain, rows

pytestmark = pytest.mark.usefixtures("datasets_cache")
TRUNCATED = encoded(pictures(1, 64)[0], "JPEG")[:900]
STREAMED = {"streaming": True, "shuffle_buffer": 0}


def split(*images: bytes | None, paths: bool = False) -> datasets.Dataset:
    """Return images with alternating labels, and file names if `paths`."""
    stored = [{"bytes": image, "path": f"{n}.jpg" if paths else None} for n, image in enumerate(images)]
    values = [None if image is None else value for image, value in zip(images, stored, strict=True)]
    return rows({"image": values, "label": [n % 2 for n in range(len(images))]}, image=IMAGE, label=AB)


@pytest.fixture
def damaged(tmp_path: Path) -> DataConfig:
    """Images 0 to 7, where 2 is truncated, 3 is missing and 7 is not an image."""
    good = [plain(n) for n in range(8)]
    images = split(*good[:2], TRUNCATED, None, *good[4:7], b"no image", paths=True)
    config = parquet(tmp_path / "damaged", train=images, test=images)
    return replace(config, batch_size=4, max_corrupt=0.5, hflip=0.0)


def train_batches(config: DataConfig) -> tuple[Any, UnreadableImages]:
    data = load_image_data(config)
    loader = train_loader(data, config, mean=MEAN, std=STD, seed=0)
    return list(loader), data.unreadable_train


@pytest.mark.parametrize("options", [{}, STREAMED], ids=["loaded", "streamed"])
def test_in_training_the_next_image_of_the_batch_replaces_it(damaged: DataConfig, options: dict[str, Any]) -> None:
    config = replace(damaged, **options)
    (first, second), unreadable = train_batches(config)
    for images, labels, _ in (first, second):
        assert images.shape == (4, 8, 8, 3)
        assert all(number_of(image) % 2 == label for image, label in zip(images, labels.tolist(), strict=True))
    unreadable.collect()
    assert len(unreadable) == 3
    if options:  # in the order of the files
        assert [number_of(image) for image in first[0]] == [0, 1, 0, 0], "the last ones have the first as their next"
        assert [number_of(image) for image in second[0]] == [4, 5, 6, 4]


@pytest.mark.parametrize("options", [{}, STREAMED], ids=["loaded", "streamed"])
def test_the_replacement_does_not_depend_on_workers(damaged: DataConfig, options: dict[str, Any]) -> None:
    config = replace(damaged, **options, auto_augment="rand-m9-mstd0.5")
    expected, _ = train_batches(config)
    for workers in (1, 2):
        batches, unreadable = train_batches(replace(config, workers=workers))
        assert all(torch.equal(one[0], other[0]) for one, other in zip(expected, batches, strict=True))
        unreadable.collect()
        assert len(unreadable) == 3, "workers are processes, and they must be heard"


def test_each_is_named_once_with_row_file_and_reason(damaged: DataConfig, caplog: pytest.LogCaptureFixture) -> None:
    data = load_image_data(replace(damaged, workers=1))
    loader = train_loader(data, replace(damaged, workers=1), mean=MEAN, std=STD, seed=0)
    with caplog.at_level(logging.WARNING, "ssia_zoo"):
        for epoch in range(3):
            loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
            list(loader)
            data.unreadable_train.collect()
    messages = sorted(message for message in caplog.messages if message.startswith("row "))
    assert len(messages) == 3
    assert messages[0].startswith("row 2 of 'train' (2.jpg) cannot be read (")
    assert "truncated" in messages[0]
    assert messages[1] == "row 3 of 'train' cannot be read (there is no image); skipped"
    assert messages[2].startswith("row 7 of 'train' (7.jpg) cannot be read (cannot identify image file")


def test_the_row_in_the_full_split_is_named(damaged: DataConfig) -> None:
    config = replace(damaged, max_eval_images=6)
    data = load_image_data(config)
    kept = sorted(set(data.eval._indices.column(0).to_pylist()) & {2, 3, 7})
    list(eval_loader(data, config, mean=MEAN, std=STD))
    data.unreadable_eval.collect()
    assert sorted(int(name.split()[1]) for name in data.unreadable_eval.state_dict()["reasons"]) == kept


@pytest.mark.parametrize("shuffle_buffer", [0, 8])
def test_a_streamed_image_without_a_name_is_counted_once(tmp_path: Path, shuffle_buffer: int) -> None:
    images = split(*[plain(n) for n in range(7)], b"no image")
    config = parquet(tmp_path / "d", train=images, test=images)
    config = replace(config, streaming=True, shuffle_buffer=shuffle_buffer, max_corrupt=0.2)
    data = load_image_data(config)
    loader = train_loader(data, config, mean=MEAN, std=STD, seed=0)
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        list(loader)
        data.unreadable_train.collect()
    (name,) = data.unreadable_train.state_dict()["reasons"]
    assert name.startswith("the image of sha256 ")


@pytest.mark.parametrize("path", ["001.jpg", None])
def test_streamed_images_of_one_name_or_without_content_are_counted_each(tmp_path: Path, path: str | None) -> None:
    damaged: list[Any] = [{"bytes": f"damaged {n}".encode(), "path": path} if path else None for n in range(3)]
    good = [{"bytes": plain(n), "path": path} for n in range(9)]
    split_ = rows({"image": [*damaged, *good], "label": [n % 2 for n in range(12)]}, image=IMAGE, label=AB)
    config = replace(parquet(tmp_path / "d", train=split_, test=split_), max_corrupt=0.2, batch_size=4, **STREAMED)
    data = load_image_data(config)
    list(train_loader(data, config, mean=MEAN, std=STD, seed=0))
    with pytest.raises(DataError, match=r"^3 of 12 images of the training images cannot be read"):
        data.unreadable_train.collect()


def test_the_limit_of_a_stream_concerns_an_epoch_and_not_all_that_were_read(tmp_path: Path) -> None:
    unreadable = UnreadableImages("x", 10, 0.2)
    for epoch in range(5):  # of a stream whose epochs have other images
        for place in (0, 1):
            unreadable.add(f"image {epoch} {place}", "damaged", epoch=epoch, place=place)
        unreadable.collect()
    resumed = UnreadableImages("x", 10, 0.2)
    resumed.load_state_dict(unreadable.state_dict())
    assert len(resumed) == len(unreadable) == 2
    resumed.add("another", "damaged", epoch=4, place=7)
    with pytest.raises(DataError, match=r"^3 of 10"):
        resumed.collect()


def test_in_evaluation_unreadable_images_do_not_count_in_the_metrics(damaged: DataConfig) -> None:
    data = load_image_data(damaged)
    accelerator = accelerate.Accelerator(cpu=True)
    batches = accelerator.prepare(eval_loader(data, damaged, mean=MEAN, std=STD))
    labels = torch.cat([labels for _, labels in batches]).tolist()
    assert labels == [0, 1, NOT_COUNTED, NOT_COUNTED, 0, 1, 0, NOT_COUNTED]

    class First(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[1.0, 0.0]]).repeat(len(images), 1)

    metrics = evaluate(First(), batches, accelerator)  # type: ignore[arg-type]
    assert metrics["top1"] == pytest.approx(100 * 3 / 5)
    assert len(data.eval) - len(data.unreadable_eval) == 5


@pytest.mark.covers("max_corrupt")
def test_more_unreadable_images_than_the_limit_stop_the_run(damaged: DataConfig) -> None:
    for fraction, stops in ((0.375, False), (0.374, True), (0.0, True)):
        config = replace(damaged, max_corrupt=fraction)
        _, unreadable = train_batches(config)
        if stops:
            with pytest.raises(DataError, match=r"^3 of 8 images of the training images cannot be read, first row \d"):
                unreadable.collect()
        else:
            unreadable.collect()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_without_any_readable_image_stops_the_run(tmp_path: Path, workers: int) -> None:
    images = split(b"no image", b"none either", paths=True)
    config = replace(parquet(tmp_path / "d", train=images, test=images), workers=workers, max_corrupt=1.0)
    with pytest.raises(UnreadableImageError, match=r"^no image of a batch can be read, such as row \d of 'train' \("):
        train_batches(config)
    data = load_image_data(config)
    ((images_, labels),) = eval_loader(data, config, mean=MEAN, std=STD)
    assert (images_.shape, labels.tolist()) == ((2, 3, 8, 8), [NOT_COUNTED, NOT_COUNTED])


def test_the_count_is_part_of_a_checkpoint(caplog: pytest.LogCaptureFixture) -> None:
    before = UnreadableImages("x", 10, 0.5)
    before.add("row 1", "damaged")
    before.collect()
    assert list(before.state_dict()["found"]) == ["0"], "a state file has names as keys"
    after = UnreadableImages("x", 10, 0.5)
    after.load_state_dict(before.state_dict())
    caplog.clear()
    after.add("row 1", "damaged")
    after.collect()
    assert (len(after), caplog.records) == (1, [])


def test_the_temporary_file_is_deleted_with_its_object() -> None:
    unreadable = UnreadableImages("x", 10, 0.5)
    path = Path(unreadable._path)
    assert path.exists()
    del unreadable
    assert not path.exists()


NARROW = r"row 1 of 'train' cannot be read \(too narrow: resized for the model, its 1x4000 pixels become 224x896000"


@pytest.fixture
def with_strip(tmp_path: Path) -> DataConfig:
    """Four images, of which the second is a strip of one pixel; resized and cropped to 224 pixels."""
    strip = encoded(PIL.Image.new("RGB", (1, 4000)))
    images = split(plain(0), strip, plain(2), plain(3))
    config = parquet(tmp_path / "strip", train=images, test=images)
    return replace(config, image_size=224, batch_size=4, max_corrupt=0.3, crop_padding=4)


@pytest.mark.parametrize("pixels", ["pil", "tensor"])
def test_a_strip_that_would_become_too_large_is_replaced_in_training(
    with_strip: DataConfig, pixels: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ((images, _, indices),), unreadable = train_batches(replace(with_strip, pixels=pixels))
    assert len(images) == 4
    assert {0, 2, 3} == set(indices.tolist())
    unreadable.collect()
    assert len(unreadable) == 1
    assert re.match(NARROW, caplog.messages[-1])


def test_a_strip_that_would_become_too_large_does_not_count_in_evaluation(with_strip: DataConfig) -> None:
    data = load_image_data(with_strip)
    ((images, labels),) = eval_loader(data, with_strip, mean=MEAN, std=STD)
    assert labels.tolist() == [0, NOT_COUNTED, 0, 1]
    assert images.shape == (4, 3, 224, 224)
    data.unreadable_eval.collect()
    assert len(data.unreadable_eval) == 1


def test_a_strip_is_named_where_images_are_cached(with_strip: DataConfig) -> None:
    with pytest.raises(DataError, match=r"^row 1 of 'train' is too narrow: .* 1x4000 pixels become 224x896000"):
        train_batches(replace(with_strip, cache_images=True))
