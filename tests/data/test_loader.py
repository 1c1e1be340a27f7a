"""Loaders: batches, order, and augmentation that depends on seed, epoch and index alone."""

from __future__ import annotations

import multiprocessing
import os
import random
import sys
from dataclasses import replace
from typing import Any

import accelerate
import accelerate.data_loader
import numpy as np
import pytest
import torch

from ssia_zoo.data import (
    DataConfig,
    EpochSampler,
    ImageData,
    eval_loader,
    load_image_data,
    train_loader,
)
from ssia_zoo.data.loader import start_worker
from tests.helpers.data_folders import (
    MEAN,
    STD,
    finished,
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
    """Return the augmented image of each index in an epoch."""
    loader.sampler.set_epoch(epoch)
    order = [index for _, index in loader.sampler]
    images = torch.cat([finished(batch, AUGMENTED)[0] for batch in loader])
    return dict(zip(order, images, strict=False))


@pytest.mark.covers("image_size", "batch_size")
def test_batches_are_normalized_float_images_and_integer_labels(data: ImageData) -> None:
    images, labels = next(iter(eval_loader(data, AUGMENTED, mean=MEAN, std=STD)))
    assert (images.dtype, images.shape) == (torch.float32, (8, 3, 12, 12))
    assert (labels.dtype, labels.tolist()) == (torch.int64, data.eval["label"][:8])
    assert images.min() == -2
    assert images.max() <= 2


@pytest.mark.covers("batch_size", "eval_batch_size")
def test_training_drops_the_incomplete_batch_and_evaluation_keeps_it(data: ImageData) -> None:
    assert [len(labels) for _, labels, *_ in train(data)] == [8] * 5
    loader = eval_loader(data, replace(AUGMENTED, eval_batch_size=6), mean=MEAN, std=STD)
    labels = [labels.tolist() for _, labels in loader]
    assert [len(batch) for batch in labels] == [6, 6, 6, 2]
    assert [label for batch in labels for label in batch] == data.eval["label"][:]


def test_augmentation_does_not_depend_on_workers_or_batch_size(data: ImageData) -> None:
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
def test_the_setting_is_the_number_of_worker_processes(data: ImageData, workers: int) -> None:
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


def test_loading_in_the_training_process_leaves_the_global_generators_unchanged(data: ImageData) -> None:
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
    whole = [finished(batch, AUGMENTED)[0] for batch in loader]
    assert torch.equal(torch.cat(whole), torch.stack(list(expected.values())))
    resumed = accelerator.prepare(train(data, replace(AUGMENTED, workers=1)))
    resumed.set_epoch(2)
    rest = [finished(batch, AUGMENTED)[0] for batch in accelerate.skip_first_batches(resumed, 3)]
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
        batches.append([finished(batch, AUGMENTED)[0] for batch in loader])
        # Here the skipping loader has to carry the epoch by itself.
        skipping = accelerate.skip_first_batches(shard(process), 1)
        skipping.set_epoch(2)
        assert torch.equal(torch.cat([finished(batch, AUGMENTED)[0] for batch in skipping]), batches[-1][1])
    assert [len(part) for part in batches] == [2, 2]  # of five batches the odd one is left out
    woven = torch.cat([batches[0][0], batches[1][0], batches[0][1], batches[1][1]])
    assert torch.equal(woven, torch.stack(list(expected.values()))[:32])


def test_a_worker_is_silent_if_the_main_process_stops_while_it_takes_a_batch(capfd: pytest.CaptureFixture[str]) -> None:
    child = os.fork()
    if child == 0:
        sys.excepthook = sys.__excepthook__  # torch.distributed's, of another test, adds the rank
        start_worker(0)
        for error in (ConnectionResetError("closed"), EOFError(), ValueError("shown")):
            sys.excepthook(type(error), error, None)
        os._exit(0)
    os.waitpid(child, 0)
    assert capfd.readouterr().err == "ValueError: shown\n"
