"""Runs with a memory of predictions resume bit for bit; data without fixed rows is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ssia_zoo.errors import ConfigError, TrainingError
from ssia_zoo.training import parse_config
from tests.helpers.runs import flags, same_weights, small_run

FORM: dict[str, Any] = {
    "ssia.supervisor": "memory",
    "ssia.labels": 1.0,
    "ssia.handover": True,
    "ssia.top": True,
    "ssia.temperature": 1.0,
}


def test_a_resumed_run_has_the_memory_of_one_that_was_left_alone(tmp_path: Path) -> None:
    small_run(tmp_path / "whole", checkpoint_every=8, **FORM)  # 12 steps; the last 6 read the memory
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    checkpoint = tmp_path / "resumed" / "checkpoints" / "step_00000008"
    small_run(tmp_path / "resumed", checkpoint_every=8, resume=checkpoint, **FORM)
    records = [json.loads(line)["step"] for line in (tmp_path / "resumed" / "metrics.jsonl").read_text().splitlines()]
    assert records[-1] == 12
    assert same_weights(tmp_path / "whole", tmp_path / "resumed")


@pytest.mark.parametrize(
    "changed",
    [{"ssia.top": None}, {"ssia.momentum": 0.0}, {"ssia.share": 0.5}, {"ssia.top": None, "ssia.supervisor": "now"}],
    ids=str,
)
def test_each_choice_of_the_memory_changes_the_weights(tmp_path: Path, changed: dict[str, Any]) -> None:
    more = {"epochs": 3, "max_train_images": 32}
    small_run(tmp_path / "as_is", **FORM, **more)
    small_run(tmp_path / "changed", **{name: v for name, v in {**FORM, **more, **changed}.items() if v is not None})
    assert not same_weights(tmp_path / "as_is", tmp_path / "changed")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"streaming": True}, "leave out `streaming`"),
        ({"mixup": 0.2}, "leave out `mixup` and `cutmix`"),
        ({"cutmix": 1.0}, "leave out `mixup` and `cutmix`"),
        ({"aug_repeats": 2}, "`aug_repeats` is 2"),
        ({"bce_loss": True}, "leave out it or `bce_loss`"),
    ],
)
def test_what_a_memory_cannot_take_is_refused(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        parse_config(flags(output_dir="unused", **FORM, **settings))


def test_a_checkpoint_with_other_choices_is_refused(tmp_path: Path) -> None:
    small_run(tmp_path, epochs=1, **FORM)
    with pytest.raises(TrainingError, match="ssia"):
        small_run(tmp_path, epochs=1, resume="auto", **{**FORM, "ssia.momentum": 0.5})
