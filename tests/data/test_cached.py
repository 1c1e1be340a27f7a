"""Cached images: the same batches, bit for bit, as from the ordinary loader."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssia_zoo.data import DataConfig, load_image_data, train_loader
from ssia_zoo.data.decode import decode_image
from ssia_zoo.data.samples import UnreadableImageError
from ssia_zoo.errors import ConfigError
from tests.helpers.data_folders import AB, IMAGE, MEAN, STD, error_text, finished, parquet, pictures, rows

CONFIG = DataConfig("digits", image_size=12, batch_size=8, workers=0, crop_padding=3, max_train_images=44)

pytestmark = pytest.mark.usefixtures("datasets_cache")


def epochs(config: DataConfig, **options: Any) -> list[tuple[Tensor, Tensor]]:
    """Return all batches of epochs 0 and 3."""
    data = load_image_data(config)
    loader = train_loader(data, config, mean=MEAN, std=STD, seed=5, **options)
    batches = []
    for epoch in (0, 3):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        batches += [finished(batch) for batch in loader]
    return batches


@pytest.mark.covers("crop_padding")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"hflip": 0.0},
        {"hflip": 1.0},
        {"aug_repeats": 2},
        {"image_size": 8, "interpolation": "nearest"},
        {"pixels": "pil"},
    ],
    ids=str,
)
def test_cached_batches_are_those_of_the_ordinary_loader(options: dict[str, Any]) -> None:
    config = replace(CONFIG, **options)
    ordinary, cached = epochs(config), epochs(replace(config, cache_images=True))
    assert len(ordinary) == len(cached) == 10
    for batch, from_cache in zip(ordinary, cached, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(batch, from_cache, strict=True))
        assert batch[0].stride() == from_cache[0].stride()


@pytest.mark.covers("cache_images")
@pytest.mark.parametrize(("cache", "decoded"), [(False, 80), (True, 44)])
def test_cached_images_are_decoded_once_and_others_each_time(
    monkeypatch: pytest.MonkeyPatch, cache: bool, decoded: int
) -> None:
    count = 0

    def counting(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        return decode_image(*arguments)

    monkeypatch.setattr("ssia_zoo.data.samples.decode_image", counting)
    assert len(epochs(replace(CONFIG, cache_images=cache, pixels="pil"))) == 10
    assert count == decoded


def test_cached_batches_do_not_depend_on_the_global_generator_or_change_it() -> None:
    config = replace(CONFIG, cache_images=True)
    expected = epochs(config)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    again = epochs(config)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one, other) for (one, *_), (other, *_) in zip(expected, again, strict=True))


def test_unreadable_images_are_replaced_by_the_same_images_as_without_the_cache(tmp_path: Path) -> None:
    values: list[Any] = [*pictures(12)]
    values[2], values[7], values[11] = None, {"bytes": b"no image", "path": "7.png"}, None
    split = rows({"image": values, "label": [n % 2 for n in range(12)]}, image=IMAGE, label=AB)
    damaged = replace(parquet(tmp_path / "d", train=split, test=split), batch_size=4, max_corrupt=0.5, crop_padding=2)
    config = replace(damaged, cache_images=True)
    for batch, from_cache in zip(epochs(damaged), epochs(config), strict=True):
        assert all(torch.equal(one, other) for one, other in zip(batch, from_cache, strict=True))
    data = load_image_data(config)
    train_loader(data, config, mean=MEAN, std=STD, seed=5)
    data.unreadable_train.collect()
    reasons = data.unreadable_train.state_dict()["reasons"]
    assert reasons["row 2 of 'train'"] == "there is no image"
    assert "cannot identify" in reasons["row 7 of 'train' (7.png)"]
    assert len(reasons) == 3


def test_a_batch_without_a_readable_image_is_an_error(tmp_path: Path) -> None:
    split = rows({"image": [*pictures(2), None, None], "label": [0, 1, 0, 1]}, image=IMAGE, label=AB)
    config = parquet(tmp_path / "d", train=split, test=split)
    config = replace(config, batch_size=1, max_corrupt=1.0, crop_padding=2, cache_images=True)
    with pytest.raises(UnreadableImageError, match="no image of a batch can be read, such as row 3 of 'train'"):
        epochs(config)


def test_images_that_are_not_square_are_refused(tmp_path: Path) -> None:
    oblong = [image.resize((10, 8)) for image in pictures(4)]
    split = rows({"image": oblong, "label": [0, 1, 0, 1]}, image=IMAGE, label=AB)
    config = replace(parquet(tmp_path / "d", train=split, test=split), batch_size=2, crop_padding=2, cache_images=True)
    assert "row 0 of 'train' has 10x8 pixels, but `cache_images` needs square images" in error_text(config, epochs)


@pytest.mark.parametrize(
    "options",
    [{"streaming": True}, {"vflip": 0.5}, {"auto_augment": "v0"}, {"random_erase": 0.1}],
    ids=str,
)
def test_what_needs_each_image_is_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"`cache_images` cannot be combined with `{next(iter(options))}`; leave out"):
        replace(CONFIG, cache_images=True, **options)


def test_a_random_resized_crop_is_refused() -> None:
    with pytest.raises(ConfigError, match="`cache_images` requires `crop_padding`, such as 4"):
        replace(CONFIG, cache_images=True, crop_padding=0)
