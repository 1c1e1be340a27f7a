"""Mixup and cutmix are reproducible, have the strength asked for, and end after `mixup_off_epoch`."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from ssia_zoo.training.config import TrainConfig
from ssia_zoo.training.methods import create_task
from ssia_zoo.training.metrics import read_records
from ssia_zoo.training.mixup import Batch, build_mixing
from tests.helpers.runs import small_run


def batch() -> Batch:
    return torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(8)


def mixed(epoch: int = 0, index: int = 0, process: int = 0, **settings: object) -> Batch:
    mixing = build_mixing(TrainConfig(**{"mixup": 0.8, "cutmix": 1.0, **settings}), 10, process)
    assert mixing is not None
    return mixing(batch(), epoch, index)


@pytest.mark.covers("seed")
def test_a_mixing_depends_on_seed_batch_and_process_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    images, targets = mixed(index=3)
    assert torch.equal(torch.get_rng_state(), before), "nothing is drawn from the run's own generator"
    torch.manual_seed(2)
    assert torch.equal(mixed(index=3)[0], images)
    for other in (mixed(index=4), mixed(index=3, process=1), mixed(index=3, seed=1)):
        assert not torch.equal(other[0], images)
    assert targets.shape == (8, 10)
    torch.testing.assert_close(targets.sum(1), torch.ones(8))


@pytest.mark.covers("mixup_off_epoch", "smoothing")
def test_after_its_last_epoch_nothing_is_mixed_and_targets_stay_soft() -> None:
    settings = {"mixup_off_epoch": 2, "smoothing": 0.1}
    assert not torch.equal(mixed(epoch=1, **settings)[0], batch()[0])
    images, targets = mixed(epoch=2, **settings)
    assert torch.equal(images, batch()[0])
    assert targets.argmax(1).tolist() == list(range(8))
    torch.testing.assert_close(targets[0, 0], torch.tensor(0.91))


@pytest.mark.covers("mixup_prob")
def test_the_probability_is_that_of_a_batch_to_be_mixed() -> None:
    assert torch.equal(mixed(mixup_prob=0.0)[0], batch()[0])
    changed = [not torch.equal(mixed(index=i, mixup_prob=0.5)[0], batch()[0]) for i in range(60)]
    assert 15 < sum(changed) < 45


@pytest.mark.covers("mixup_switch_prob", "cutmix")
@pytest.mark.parametrize(("switch", "cut"), [(0.0, False), (1.0, True)])
def test_the_switch_chooses_between_mixup_and_cutmix(switch: float, cut: bool) -> None:
    images, _ = mixed(mixup_switch_prob=switch)
    original, partner = batch()[0], batch()[0].flip(0)
    from_one_image = ((images == original) | (images == partner)).all()
    assert bool(from_one_image) == cut


@pytest.mark.covers("mixup", "mixup_mode")
def test_the_mode_says_what_shares_a_mixing() -> None:
    def shares(mode: str) -> list[float]:
        targets = mixed(mixup_mode=mode, cutmix=0.0)[1]
        return [round(float(targets[i, i]), 5) for i in range(8)]

    assert len(set(shares("batch"))) == 1
    pairs = shares("pair")
    assert pairs == pairs[::-1]
    assert len(set(pairs)) == 4
    assert len(set(shares("elem"))) == 8


@pytest.mark.covers("bce_loss", "bce_sum", "bce_target_thresh")
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, lambda z, t: torch.nn.functional.binary_cross_entropy_with_logits(z, t)),
        ({"bce_sum": True}, lambda z, t: 10 * torch.nn.functional.binary_cross_entropy_with_logits(z, t)),
        (
            {"bce_target_thresh": 0.2},
            lambda z, t: torch.nn.functional.binary_cross_entropy_with_logits(z, (t > 0.2).float()),
        ),
    ],
    ids=["mean", "sum", "threshold"],
)
@pytest.mark.parametrize("method", ["ssia", "vanilla"])
def test_bce_is_that_of_every_class_on_mixed_and_on_plain_targets(
    settings: dict[str, object], expected: object, method: str
) -> None:
    for more in ({"mixup": 0.8}, {"smoothing": 0.1}):
        config = TrainConfig(bce_loss=True, method=method, **settings, **more)
        task = create_task(timm.create_model("test_resnet", num_classes=10), config, (3, 32, 32))
        logits = torch.randn(8, 10, generator=torch.Generator().manual_seed(0))
        hard = torch.nn.functional.one_hot(torch.arange(8), 10).float()
        if "mixup" in more:
            target = soft = mixed(cutmix=0.0)[1]
        else:
            target, soft = torch.arange(8), 0.9 * hard + 0.01
        torch.testing.assert_close(task.criterion(logits, target), expected(logits, soft))  # type: ignore[operator]


@pytest.mark.covers("cutmix")
def test_a_run_tells_top_1_of_its_training_only_where_images_have_one_class(tmp_path: Path) -> None:
    short = {"max_steps": 2, "epochs": 1}
    for name, settings in {"plain": {}, "mixed": {"cutmix": 1.0, "mixup_prob": 0.5}}.items():
        small_run(tmp_path / name, **short, **settings)
        train = [r for r in read_records(tmp_path / name / "metrics.jsonl") if r["kind"] == "train"]
        assert [0 <= r["top1"] <= 100 if "top1" in r else None for r in train] == [
            True if name == "plain" else None
        ] * 2
