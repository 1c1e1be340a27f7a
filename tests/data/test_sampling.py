"""Balanced sampling: equal shares of the classes, a function of seed and epoch, other views of repeated images."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler

from ssia_zoo.data import BalancedSampler, load_image_data, train_loader
from ssia_zoo.data.config import DataConfig
from ssia_zoo.errors import ConfigError
from tests.helpers.data_folders import MEAN, STD, finished, image_folder

pytestmark = pytest.mark.usefixtures("datasets_cache")


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=60).map(sorted), st.integers(0, 2**31 - 1), st.integers(0, 1000)
)
def test_classes_and_the_images_of_a_class_are_drawn_equally_often(labels: list[int], seed: int, epoch: int) -> None:
    sampler = BalancedSampler(labels, seed)
    sampler.set_epoch(epoch)
    keys = list(sampler)
    assert len(keys) == len(set(keys)) == len(labels), "no two draws of an image are augmented alike"
    images = Counter(index for _, index in keys)
    classes = Counter(labels[index] for _, index in keys)
    shares = [classes[label] for label in set(labels)]
    assert max(shares) - min(shares) <= 1
    for label in set(labels):
        draws = [images[index] for index, other in enumerate(labels) if other == label]
        assert max(draws) - min(draws) <= 1
    assert list(sampler) == keys


def test_the_order_depends_on_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = BalancedSampler([0] * 30 + [1] * 5, seed)
        sampler.set_epoch(epoch)
        return [index for _, index in sampler]

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in range(2) for epoch in range(3)}) == 6
    drawn = {index for epoch in range(20) for index in order(0, epoch)}
    assert drawn == set(range(35)), "an image that one epoch leaves out comes in another"


def test_views_of_a_draw_follow_one_another() -> None:
    keys = list(BalancedSampler([0] * 14 + [1] * 2, seed=0, repeats=4))
    assert len(set(keys)) == 16
    draws = [[index for _, index in keys[start : start + 4]] for start in range(0, 16, 4)]
    assert all(len(set(draw)) == 1 for draw in draws)
    assert sorted(draw[0] >= 14 for draw in draws) == [False, False, True, True]


def test_processes_get_disjoint_parts_of_the_same_draws() -> None:
    sampler = BalancedSampler([0] * 20 + [1] * 4, seed=1)
    batches = list(BatchSampler(sampler, 4, drop_last=True))
    parts = [list(BatchSamplerShard(BatchSampler(sampler, 4, drop_last=True), 2, rank)) for rank in range(2)]
    assert parts == [batches[0::2], batches[1::2]]


@pytest.mark.covers("balanced_sampling")
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_have_equal_classes_and_differing_views_of_the_same_image(tmp_path: Path, workers: int) -> None:
    folder = image_folder(tmp_path, train={"cat": 28, "dog": 2}, test={"cat": 1, "dog": 1}).dataset
    config = DataConfig(folder, image_size=8, batch_size=10, workers=workers, balanced_sampling=True)
    batches = list(train_loader(load_image_data(config), config, mean=MEAN, std=STD, seed=0))
    labels, indices = (torch.cat([batch[part] for batch in batches]) for part in (1, 2))
    assert labels.bincount().tolist() == [15, 15]
    views = torch.cat([images for images, *_ in batches])[indices == 28]
    assert len(views) >= 7
    assert len({tuple(view.flatten().tolist()) for view in views}) == len(views)


def test_a_cache_draws_the_same_batches(tmp_path: Path) -> None:
    folder = image_folder(tmp_path, train={"cat": 12, "dog": 2}, test={"cat": 1, "dog": 1}).dataset
    plain = DataConfig(folder, image_size=8, batch_size=7, workers=0, crop_padding=2, balanced_sampling=True)
    cached = DataConfig(**{**vars(plain), "cache_images": True})
    one, other = (
        [finished(batch) for batch in train_loader(load_image_data(config), config, mean=MEAN, std=STD, seed=0)]
        for config in (plain, cached)
    )
    assert len(one) == len(other) == 2
    assert all(torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


def test_a_stream_is_refused() -> None:
    with pytest.raises(ConfigError, match="`balanced_sampling` needs all labels before training"):
        DataConfig("digits", streaming=True, balanced_sampling=True)
