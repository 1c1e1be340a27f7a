"""Repeated augmentation: several views of an image in a batch."""

from __future__ import annotations

import pytest
import torch

from ssia_zoo.data import DataConfig, EpochSampler, load_image_data, train_loader
from ssia_zoo.errors import ConfigError


def batches(workers: int = 0, repeats: int = 4, epoch: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    config = DataConfig(
        "digits", image_size=32, batch_size=8, workers=workers, max_train_images=30, aug_repeats=repeats
    )
    loader = train_loader(load_image_data(config), config, mean=(0.5,) * 3, std=(0.5,) * 3, seed=0)
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return list(loader)


def test_views_of_an_image_follow_one_another_and_an_epoch_keeps_its_length() -> None:
    keys = list(EpochSampler(10, seed=0, repeats=4))
    assert len(keys) == 10
    assert len(set(keys)) == 10, "no two views are augmented alike"
    indices = [index for _, index in keys]
    assert indices == [indices[0]] * 4 + [indices[4]] * 4 + [indices[8]] * 2
    assert len(set(indices)) == 3


def test_without_repeats_all_keys_have_the_epoch_itself() -> None:
    sampler = EpochSampler(10, seed=0)
    sampler.set_epoch(3)
    keys = list(sampler)
    assert {epoch for epoch, _ in keys} == {3}
    assert sorted(index for _, index in keys) == list(range(10))


@pytest.mark.covers("aug_repeats")
def test_a_batch_holds_all_views_of_its_images_and_they_differ() -> None:
    for images, labels, _ in batches():
        assert labels.view(2, 4).eq(labels.view(2, 4)[:, :1]).all()
        for views in images.view(2, 4, -1):
            assert len({tuple(view.tolist()) for view in views}) == 4


def test_views_do_not_depend_on_workers_and_differ_between_epochs() -> None:
    alone, helped = batches(), batches(workers=2)
    assert len(alone) == len(helped) == 3
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(alone, helped, strict=True))
    assert not torch.equal(batches(epoch=1)[0][0], alone[0][0])


def test_repeats_that_a_batch_cannot_hold_are_refused() -> None:
    with pytest.raises(ConfigError, match="`aug_repeats` is 3"):
        DataConfig("digits", batch_size=8, aug_repeats=3)
