"""Formatting published weights as a table, pages and JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ssia_zoo.cli.listing import align, details, page, table
from ssia_zoo.models import registry
from ssia_zoo.models.listing import mean_difference, select_weights, summary
from ssia_zoo.models.weight import PairedRun
from tests.helpers.published_weights import weight_entry

CIFAR = weight_entry()
TINY = weight_entry(tag="tin_r64", default=False, dataset=replace(CIFAR.dataset, name="Tiny-ImageNet", source="tiny"))
VIT = weight_entry("test_vit", tag="c10_r160")


@pytest.fixture(autouse=True)
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_weights", {config.name: config for config in (VIT, TINY, CIFAR)})


@pytest.mark.parametrize(
    ("pattern", "dataset", "expected"),
    [
        (None, None, [CIFAR, TINY, VIT]),
        ("resnet", None, [CIFAR, TINY]),
        ("RESNET", None, [CIFAR, TINY]),
        ("*r160", None, [VIT]),
        ("r160*", None, []),
        ("test_???_*", None, [VIT]),
        (None, "cifar", [CIFAR, VIT]),
        (None, "tin", [TINY]),
        (None, "uoft-cs/cifar10", [CIFAR, VIT]),
        ("vit", "tiny", []),
    ],
)
def test_weights_are_selected_by_name_and_data(pattern: str | None, dataset: str | None, expected: list) -> None:
    assert select_weights(pattern, dataset) == expected


def test_the_table_has_a_row_per_weight_with_its_control() -> None:
    head, *rows = table([CIFAR, TINY]).splitlines()[:3]
    assert " ".join(head.split()) == "WEIGHT TRAINED ON CLASSES INPUT TOP-1 CONTROL MEAN DIFF. SIZE WHERE"
    assert " ".join(rows[0].split()) == "test_resnet_ssia.c10_r32* CIFAR-10 3 32×48 71.25 70.00 +0.92 (3) ? Hub"
    assert rows[1].startswith("test_resnet_ssia.tin_r64 ")


def test_columns_are_aligned() -> None:
    assert align([("a", "10"), ("bcd", "5")], right=(1,)) == "a    10\nbcd   5"


def test_the_mean_difference_is_over_all_seeds_with_its_sign() -> None:
    assert mean_difference([PairedRun(seed=0, ssia=50.0, vanilla=51.0)]) == -1.0
    assert mean_difference(CIFAR.metrics.runs) == pytest.approx((1.25 - 0.5 + 2.0) / 3, abs=1e-4)


def test_a_summary_and_the_details_are_json() -> None:
    row, everything = (json.loads(json.dumps(part)) for part in (summary(CIFAR), details(CIFAR)))
    assert (row["top1"], row["control_top1"], row["seeds"], row["bytes"]) == (71.25, 70.0, 3, None)
    assert everything["dataset"]["terms"] == "ask its authors"
    assert everything["metrics"]["runs"][1] == {"seed": 1, "ssia": 70.5, "vanilla": 71.0}
    assert CIFAR.name in everything["reproduce"]
    assert "reconstruction" in everything["note"]


def test_the_command_that_repeats_a_training_names_what_a_user_must_have() -> None:
    training = {"dataset": "grocery", "model": "local-dir:runs/base/lite0"}
    text = page(replace(CIFAR, training=training))
    command = f"  ssia-zoo train --config {CIFAR.name} --dataset DATA --model local-dir:BASE --output-dir runs/again"
    assert command in text.splitlines()
    assert f"  DATA: {CIFAR.dataset.name} from {CIFAR.dataset.source}, as in docs/finetune.md" in text.splitlines()
    assert "  BASE: the pretrained weights that the description names" in text.splitlines()
    assert "DATA" not in page(replace(CIFAR, training={"dataset": "org/name", "model": "resnet18"}))


def test_a_page_has_everything_that_is_published() -> None:
    printed = " ".join(page(CIFAR).split())
    for text in (
        CIFAR.description,
        "timm's test_resnet, unchanged",
        "test_resnet_ssia is this weight",
        f"{CIFAR.repo_id} at {'a' * 40}",
        "b" * 64,
        "licence apache-2.0",
        "data licence unknown",
        "ask its authors",
        "3: cat, dog, sea horse",
        "RGB, 32×48 pixels, bicubic, crop 0.875 (center), mean 0.5 0.4 0.3, std 0.25 0.25 0.25",
        "1 70.50 71.00 -0.50",
        "mean paired difference +0.92 points, standard deviation 1.28",
        "scale 0.7 1",
        "ssia weight 0.5",
        "torch 2.9.0, machine 1 GPU",
        "ssia-zoo train --config test_resnet_ssia.c10_r32",
        "is a reconstruction",
    ):
        assert text in printed
    assert max(map(len, page(CIFAR).splitlines())) <= 110


def test_one_seed_is_called_not_significant() -> None:
    metrics = replace(CIFAR.metrics, runs=CIFAR.metrics.runs[:1])
    assert "one seed: not significant" in page(replace(CIFAR, metrics=metrics))


def test_many_classes_are_shortened() -> None:
    many = replace(CIFAR, num_classes=1000, label_names=tuple(f"name{i}" for i in range(1000)))
    assert "name17, name18, … name999" in " ".join(page(many).split())
    assert "name500" not in page(many)
