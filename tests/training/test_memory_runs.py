"""Runs with a memory or a moving average as supervisor: resumed bit for bit, in several processes; what is refused."""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import timm
from torch import Tensor

from ssia_zoo.errors import ConfigError, TrainingError
from ssia_zoo.loss.memory import PredictionMemory
from ssia_zoo.loss.ssia import SSIAConfig
from ssia_zoo.training import parse_config
from ssia_zoo.training.config import TrainConfig
from ssia_zoo.training.methods import create_task
from tests.helpers.runs import flags, same_weights, small_run
from tests.training.test_distributed import SGD, assert_as_in_one_process, in_processes, layouts

FORM: dict[str, Any] = {
    "ssia.supervisor": "memory",
    "ssia.labels": 1.0,
    "ssia.handover": True,
    "ssia.top": True,
    "ssia.temperature": 1.0,
}
AVERAGE: dict[str, Any] = {**FORM, "ssia.supervisor": "average", "ema": 0.8}
each_supervisor = pytest.mark.parametrize("form", [FORM, AVERAGE], ids=["memory", "average"])


@each_supervisor
def test_a_resumed_run_has_the_supervisor_of_one_that_was_left_alone(tmp_path: Path, form: dict[str, Any]) -> None:
    small_run(tmp_path / "whole", checkpoint_every=8, **form)  # 12 steps; the last 6 read the memory
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    checkpoint = tmp_path / "resumed" / "checkpoints" / "step_00000008"
    small_run(tmp_path / "resumed", checkpoint_every=8, resume=checkpoint, **form)
    records = [json.loads(line)["step"] for line in (tmp_path / "resumed" / "metrics.jsonl").read_text().splitlines()]
    assert records[-1] == 12
    assert same_weights(tmp_path / "whole", tmp_path / "resumed")


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    runs = [{"output_dir": folder / f"average_{name}", **sizes, **AVERAGE_SGD} for name, sizes in layouts(2).items()]
    for name, form in {"memory": FORM, "average": AVERAGE}.items():
        norms = {"batch_size": 8, "max_train_images": 48, "checkpoint_every": 4, **form}  # BatchNorm; 6 steps
        checkpoint = folder / name / "checkpoints" / "step_00000004"
        runs += [
            {"output_dir": folder / name, **norms},
            {"output_dir": folder / f"{name}_resumed", "resume": checkpoint, **norms},
        ]
    in_processes(2, folder, runs)
    return folder


AVERAGE_SGD = {"model": "test_vit", **AVERAGE, **SGD}


@pytest.mark.slow
def test_two_processes_learn_the_same_from_the_average_as_one(two_processes: Path) -> None:
    assert_as_in_one_process(two_processes, 2, "average", AVERAGE_SGD)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["memory", "average"])
def test_two_processes_resume_bit_for_bit(two_processes: Path, name: str) -> None:
    lines = (two_processes / f"{name}_resumed" / "metrics.jsonl").read_text().splitlines()
    assert min(json.loads(line)["step"] for line in lines) > 4, "it must have resumed"
    assert same_weights(two_processes / name, two_processes / f"{name}_resumed")


def test_each_image_is_remembered_once_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    updates: Counter[int] = Counter()
    update = PredictionMemory.update

    def counted(memory: PredictionMemory, indices: Tensor, logits: Tensor) -> None:
        updates.update(indices.tolist())
        update(memory, indices, logits)

    monkeypatch.setattr(PredictionMemory, "update", counted)
    sizes = {"max_train_images": 32, "batch_size": 4, "accumulation_steps": 2, "epochs": 2}
    small_run(tmp_path, **sizes, **FORM)
    assert updates == dict.fromkeys(range(32), 2)


@each_supervisor
def test_lambda_0_without_top_is_vanilla_to_the_bit(tmp_path: Path, form: dict[str, Any]) -> None:
    short = {
        "max_train_images": 32,
        "drop_rate": 0.2,
        "clip_grad": 1.0,
        **({"ema": form["ema"]} if "ema" in form else {}),
    }
    form = {name: value for name, value in form.items() if name != "ssia.top"}
    small_run(tmp_path / "zero", **{**form, **short, "ssia.weight": 0.0})
    small_run(tmp_path / "vanilla", method="vanilla", **short)
    assert same_weights(tmp_path / "zero", tmp_path / "vanilla")


@pytest.mark.parametrize("settings", [{"mixup": 0.2}, {"aug_repeats": 2}], ids=str)
def test_the_average_learns_from_the_images_of_the_batch_whatever_they_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, settings: dict[str, Any]
) -> None:
    with caplog.at_level(logging.INFO):
        small_run(tmp_path, max_train_images=32, epochs=1, **AVERAGE, **settings)
    assert caplog.text.count("`ssia.supervisor` average: each step makes one more forward pass") == 1


@pytest.mark.parametrize(
    "changed",
    [
        *({"ssia.top": None}, {"ssia.momentum": 0.0}, {"ssia.share": 0.5}),
        *({"ssia.top": None, "ssia.supervisor": "now"}, {"ssia.supervisor": "average", "ema": 0.8}),
    ],
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
def test_what_a_memory_does_not_support_is_refused_in_one_line(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=f"^[^\n]*{expected}[^\n]*$"):
        parse_config(flags(output_dir="unused", **FORM, **settings))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({"ema": None}, "requires a moving average; set `ema`"), ({"bce_loss": True}, "leave out it or `bce_loss`")],
)
def test_what_an_average_does_not_support_is_refused_in_one_line(settings: dict[str, Any], expected: str) -> None:
    form = {name: value for name, value in {**AVERAGE, **settings}.items() if value is not None}
    with pytest.raises(ConfigError, match=f"^[^\n]*{expected}[^\n]*$"):
        parse_config(flags(output_dir="unused", **form))


def test_a_checkpoint_with_other_choices_is_refused(tmp_path: Path) -> None:
    small_run(tmp_path, epochs=1, **FORM)
    with pytest.raises(TrainingError, match="ssia"):
        small_run(tmp_path, epochs=1, resume="auto", **{**FORM, "ssia.momentum": 0.5})


def test_the_share_of_the_labels_to_which_smoothing_applies_is_said(caplog: pytest.LogCaptureFixture) -> None:
    model = timm.create_model("test_resnet", num_classes=5)
    ssia = SSIAConfig(supervisor="memory", top=True, share=0.8, temperature=1.0)
    with caplog.at_level(logging.INFO):
        create_task(model, TrainConfig(method="ssia", ssia=ssia, smoothing=0.1), (3, 32, 32), 10)
    assert "`ssia.top`: `smoothing` only for the labels, whose part of the final loss falls to 20 %" in caplog.text
    caplog.clear()
    create_task(model, TrainConfig(method="ssia", ssia=ssia), (3, 32, 32), 10)
    assert "ssia.top" not in caplog.text
