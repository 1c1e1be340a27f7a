"""Runs with a loss of another package: its settings, its records, resuming, and one line for what goes wrong."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ssia_zoo.errors import ConfigError, TrainingError
from ssia_zoo.loss import RivalConfig
from ssia_zoo.loss.objectives import METHOD_NAMES
from ssia_zoo.training import main, parse_config
from ssia_zoo.training.config import TrainConfig, with_defaults
from ssia_zoo.training.methods import METHODS, create_task
from ssia_zoo.training.metrics import read_records
from tests.helpers.runs import flags, same_weights, small_run
from tests.training.test_methods import SHORT, SIZE, make_batch, make_task

MINE = """
import torch
from torch import nn

from ssia_zoo.loss import AuxiliaryLoss


class Mine(AuxiliaryLoss):
    name = "mine"
    source = "Mine (arXiv 0000.00000)"
    default_weight = 0.5
    uses_labels = True

    def __init__(self, shapes, num_classes, width: int = 4):
        super().__init__(shapes, num_classes)
        with torch.random.fork_rng(devices=[]):
            self.head = nn.Sequential(nn.Linear(shapes[0][0], width), nn.GELU(), nn.Linear(width, num_classes))

    def forward(self, features, logits, label_loss):
        with torch.autocast(logits.device.type, enabled=False):
            return {"mine": label_loss(self.head(features[0].float().mean((2, 3))))}


class Raises(Mine):
    def forward(self, features, logits, label_loss):
        return {}["missing"]


class RaisesRuntimeError(Mine):
    def forward(self, features, logits, label_loss):
        return {"mine": features[0].view(3, 7).sum()}


class OutOfMemory(Mine):
    def forward(self, features, logits, label_loss):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")


class NotScalar(Mine):
    def forward(self, features, logits, label_loss):
        return {"mine": logits}


class Refuses(Mine):
    def __init__(self, shapes, num_classes):
        raise ValueError(f"not with {num_classes} classes")


class OneLabel(Mine):
    one_label = True
"""
NAME = "losses_of_mine:Mine"


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file with losses in the current folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    file = folder / "losses_of_mine.py"
    file.write_text(MINE)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(folder)
    yield file
    sys.modules.pop("losses_of_mine", None)


def test_a_run_names_the_loss_by_path_and_version(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "ssia_zoo"):
        result = small_run(tmp_path / "run", method=NAME, method_kwargs="width=3", **SHORT, max_steps=1)
    record = read_records(result.folder / "metrics.jsonl")[0]
    assert record["lambda"] == 0.5
    assert record["loss"] == pytest.approx(record["task_loss"] + 0.5 * record["mine"], rel=1e-5)
    stated = json.loads((result.folder / "config.json").read_text())["ssia"]
    assert stated["method"] == NAME
    assert stated["objective"]["path"] == NAME
    assert stated["objective"]["version"].startswith("sha256 ")
    assert stated["training"]["method_kwargs"] == {"width": 3}
    described = f"Mine (arXiv 0000.00000): {NAME} ({stated['objective']['version']})"
    assert f"another auxiliary objective during training: {described}" in (result.folder / "README.md").read_text()
    assert yaml.safe_load((result.folder / "train_config.yaml").read_text())["method_kwargs"] == {"width": 3}
    assert f"objective: {described}" in caplog.text


def test_a_run_with_lambda_zero_is_vanilla_to_the_bit(tmp_path: Path) -> None:
    small_run(tmp_path / "zero", method=NAME, **SHORT, **{"rival.weight": 0.0})
    small_run(tmp_path / "own", method=NAME, **SHORT)
    small_run(tmp_path / "vanilla", method="vanilla", **SHORT)
    assert same_weights(tmp_path / "zero", tmp_path / "vanilla")
    assert not same_weights(tmp_path / "own", tmp_path / "vanilla")


@pytest.mark.covers("method_kwargs")
def test_method_kwargs_set_up_the_loss() -> None:
    assert make_task(NAME, method_kwargs={"width": 3}).trainable_module.projection.head[0].out_features == 3
    assert make_task("byot", method_kwargs={"hidden": 7}).trainable_module.projection.hints[0].in_features == 7


def test_lambda_follows_the_settings_of_the_rivals() -> None:
    task = make_task(NAME, rival=RivalConfig(weight=2.0, schedule="warmup", warmup=0.5))
    assert [task.lambda_at(progress) for progress in (0, 0.25, 1)] == [0, 1, 2]


def test_the_file_of_settings_of_a_run_repeats_it(tmp_path: Path) -> None:
    small_run(tmp_path / "run", method=NAME, method_kwargs="width=3", **SHORT, max_steps=1)
    again = parse_config(["--config", str(tmp_path / "run" / "train_config.yaml"), "--output-dir", "again"])
    assert (again.method, again.method_kwargs) == (NAME, {"width": 3})


@pytest.mark.slow
def test_resume_refuses_another_loss_setting_or_version(tmp_path: Path, module: Path) -> None:
    run = {"checkpoint_every": 1, "max_steps": 1, **SHORT}
    small_run(tmp_path / "run", method=NAME, **run)
    for changed, named in (
        ({"method": "dsn"}, r"method \(losses_of_mine:Mine -> dsn\)"),
        ({"method": "losses_of_mine:OneLabel"}, "method .*OneLabel"),
        ({"method": NAME, "method_kwargs": "width=3"}, r"method_kwargs \({} -> {'width': 3}\)"),
    ):
        with pytest.raises(TrainingError, match=f"`resume` continues a run with its own settings.*{named}"):
            small_run(tmp_path / "run", resume="auto", **run, **changed)
    small_run(tmp_path / "run", method=NAME, resume="auto", **run)
    module.write_text(MINE + "\n# another version\n")
    del sys.modules["losses_of_mine"]
    with pytest.raises(TrainingError, match=r"objective \(losses_of_mine:Mine, sha256 \w+ -> losses_of_mine:Mine, "):
        small_run(tmp_path / "run", method=NAME, resume="auto", **run)


def test_checkpoints_of_older_versions_count_as_without_method_kwargs() -> None:
    older = TrainConfig(method="dsn").decisive_settings()
    del older["method_kwargs"], older["teacher"]
    assert (with_defaults(older)["method_kwargs"], with_defaults(older)["teacher"]) == ({}, None)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"method": "losses_of_mine:Mien"}, "losses_of_mine has no Mien; did you mean Mine?"),
        ({"method_kwargs": "widht=3"}, "--method-kwargs widht: is not a setting of losses_of_mine:Mine; did you mean"),
        ({"method": "ssia", "method_kwargs": "labels=0"}, "--method ssia takes none; use --ssia.labels"),
        ({"method": "vanilla", "method_kwargs": "x=0"}, "--method-kwargs x: --method vanilla takes none"),
        ({"method": "dsn", "method_kwargs": "x=0"}, "--method-kwargs x: is not a setting of dsn; it takes hidden"),
        ({"method_kwargs": "width={1}"}, "--method-kwargs width={1}: cannot be saved in train_config.yaml"),
        ({"method_kwargs": "width='a'"}, "--method losses_of_mine:Mine: cannot be built: TypeError: "),
        ({"method": "losses_of_mine:Refuses"}, "cannot be built: ValueError: not with 10 classes (losses_of_mine.py, "),
        (
            {"method": "losses_of_mine:Raises"},
            "error: --method losses_of_mine:Raises: Raises raised KeyError: 'missing' (losses_of_mine.py, line 26)",
        ),
        ({"method": "losses_of_mine:RaisesRuntimeError"}, "RaisesRuntimeError raised RuntimeError: "),
        ({"method": "losses_of_mine:NotScalar"}, "losses_of_mine:NotScalar: mine is a tensor of shape (16, 10); exp"),
        ({"method": "losses_of_mine:OutOfMemory"}, "out of memory (asked for 9 bytes more)"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_goes_wrong_gets_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], settings: dict[str, Any], expected: str
) -> None:
    assert main(flags(output_dir=tmp_path / "run", **{"method": NAME, **SHORT, **settings})) == 1
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert expected in last


def test_a_loss_for_one_label_is_refused_for_several() -> None:
    from ssia_zoo.training.methods import check_multi_label

    check_multi_label(TrainConfig(method=NAME))
    with pytest.raises(ConfigError, match="OneLabel compares distributions over classes"):
        check_multi_label(TrainConfig(method="losses_of_mine:OneLabel"))


def test_names_are_those_of_the_methods() -> None:
    assert set(METHOD_NAMES) == set(METHODS)


@pytest.mark.parametrize("name", ["byot", "dks"])
def test_convolutional_heads_train_through_method_kwargs(name: str) -> None:
    task = make_task(name, method_kwargs={"heads": "convolutional"})
    pooled = make_task(name)
    task(*make_batch())["loss"].backward()
    heads = task.trainable_module.projection.classifiers
    assert all(parameter.grad is not None for parameter in heads.parameters())
    assert any(isinstance(module, torch.nn.Conv2d) for module in heads.modules())
    assert not any(isinstance(m, torch.nn.Conv2d) for m in pooled.trainable_module.projection.modules())
    with pytest.raises(ConfigError, match="heads is 'other'; expected one of pooled, convolutional"):
        create_task(task.get_eval_model(), TrainConfig(method=name, method_kwargs={"heads": "other"}), SIZE)
