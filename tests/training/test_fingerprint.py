"""Fingerprints tell apart runs that begin differently, and those only."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from ssia_zoo.data import EpochSampler
from ssia_zoo.training.fingerprint import fingerprint
from tests.helpers.runs import small_run

DATA = {"train_digest": "t" * 64, "eval_digest": "e" * 64}


def of(seed: int = 0, order: int = 0) -> dict[str, str]:
    torch.manual_seed(seed)
    return fingerprint(nn.Linear(3, 2), EpochSampler(50, order), DATA)


def test_equal_starts_have_equal_fingerprints_and_each_difference_shows() -> None:
    assert of() == of()
    assert of()["train_images"] == "t" * 16
    assert {name for name, value in of(seed=1).items() if value != of()[name]} == {"initial_weights"}
    assert {name for name, value in of(order=1).items() if value != of()[name]} == {"data_order"}


def test_neither_memory_format_nor_precision_or_a_stream_stop_it() -> None:
    model = nn.Conv2d(3, 4, 2)
    plain = fingerprint(model, None, DATA)
    assert "data_order" not in plain
    assert fingerprint(model.to(memory_format=torch.channels_last), None, DATA) == plain
    assert fingerprint(model.bfloat16(), None, DATA) != plain


def test_a_run_states_it_and_the_method_does_not_change_it(tmp_path: Path) -> None:
    found = {}
    for name, settings in {"vanilla": {}, "ssia": {}, "seed": {"method": "vanilla", "seed": 1}}.items():
        small_run(tmp_path / name, **{"method": name, "epochs": 1, "max_steps": 1, "val_interval": 0, **settings})
        config = json.loads((tmp_path / name / "config.json").read_text(encoding="utf-8"))
        found[name] = config["ssia"]["fingerprint"]
    assert set(found["vanilla"]) == {"initial_weights", "data_order", "train_images", "eval_images"}
    assert found["vanilla"] == found["ssia"]
    assert found["seed"]["initial_weights"] != found["vanilla"]["initial_weights"]
    assert found["seed"]["data_order"] != found["vanilla"]["data_order"]
