"""Stopped runs: resumed to the same bits, or refused with a reason."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT, TRAIN, environment, flags, same_weights, small_run, train_in_a_process, weights

from ssia_zoo.errors import TrainingError
from ssia_zoo.training import parse_config, train
from ssia_zoo.training.checkpoint import list_checkpoints
from ssia_zoo.training.records import read_records


def test_a_checkpoint_of_other_settings_is_refused_whatever_the_folder(tmp_path: Path) -> None:
    small_run(tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoints" / "step_00000006"
    with pytest.raises(TrainingError, match="weight_decay"):
        small_run(tmp_path / "other", resume=checkpoint, weight_decay=0.9)
    small_run(tmp_path / "branch", resume=checkpoint)
    assert same_weights(tmp_path / "run", tmp_path / "branch")


def test_a_checkpoint_of_another_number_of_processes_is_refused(tmp_path: Path) -> None:
    small_run(tmp_path / "run")
    manifest = tmp_path / "run" / "checkpoints" / "step_00000012" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"processes": 1', '"processes": 2'))
    with pytest.raises(TrainingError, match="processes"):
        small_run(tmp_path / "run", resume="auto")


@pytest.mark.parametrize("damage", ["model.safetensors", "optimizer.bin", "manifest.json"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, damage: str) -> None:
    small_run(tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / "step_00000012"
    (newest / damage).write_bytes(b"damaged")
    with pytest.raises(TrainingError, match=r"step_00000012.*delete it") as caught:
        small_run(tmp_path / "run", resume="auto")
    assert "\n" not in str(caught.value)


def test_resuming_an_older_checkpoint_sets_the_later_ones_aside(tmp_path: Path) -> None:
    small_run(tmp_path / "run")
    small_run(tmp_path / "run", resume=tmp_path / "run" / "checkpoints" / "step_00000006")
    names = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert names == {"step_00000006", "step_00000012", "abandoned_step_00000012"}


def test_resume_auto_starts_afresh_where_nothing_was_saved(tmp_path: Path) -> None:
    small_run(tmp_path / "run", resume="auto")
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_a_finished_run_resumes_to_the_same_result(tmp_path: Path) -> None:
    first = small_run(tmp_path / "run")
    before = weights(tmp_path / "run")
    again = small_run(tmp_path / "run", resume="auto")
    assert again.metrics == first.metrics
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(tmp_path / "run").items())


def test_a_run_killed_with_sigkill_resumes_to_the_same_bits(tmp_path: Path) -> None:
    settings = {"epochs": 3, "checkpoint_every": 4, "ema": 0.9, "mixup": 0.2, "drop_rate": 0.2, "workers": 1}
    whole = train_in_a_process(output_dir=tmp_path / "whole", **settings)
    assert whole.returncode == 0, whole.stderr
    killed = tmp_path / "killed"
    command = [sys.executable, str(TRAIN), *flags(output_dir=killed, **settings)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, process_group=0
    )
    wait_until(lambda: any((killed / "checkpoints").glob("step_*")), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "model.safetensors").exists(), "it was to be killed in the middle"
    resumed = train_in_a_process(output_dir=killed, resume="auto", **settings)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed" in resumed.stderr
    assert same_weights(tmp_path / "whole", killed)
    evaluated = [r["step"] for r in read_records(killed / "metrics.jsonl") if r["kind"] == "eval"]
    assert evaluated == [6, 12, 18], "no step is recorded twice"


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    for _ in range(2400):
        if condition():
            return
        assert process.poll() is None, "the run ended early"
        time.sleep(0.05)
    raise AssertionError("waited two minutes")


def test_an_unfinished_checkpoint_is_not_taken(tmp_path: Path) -> None:
    small_run(tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    (checkpoints / ".unfinished_99").mkdir()
    assert [path.name for path in list_checkpoints(checkpoints)] == ["step_00000006", "step_00000012"]


def test_the_resolved_settings_repeat_the_run(tmp_path: Path) -> None:
    small_run(tmp_path / "run", lr=2e-3)
    settings = yaml.safe_load((tmp_path / "run" / "train_config.yaml").read_text())
    assert settings["lr"] == 2e-3
    again = ["--config", str(tmp_path / "run" / "train_config.yaml"), "--output-dir", str(tmp_path / "again")]
    train(parse_config(again))
    assert same_weights(tmp_path / "run", tmp_path / "again")
