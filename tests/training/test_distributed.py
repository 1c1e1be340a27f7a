"""Real processes: they give one process's gradients, and the metrics of the weights that are saved."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import timm
import torch
from conftest import TRAIN, flags, run, small_run, train_in_a_process, weights

from ssia_zoo.data import DataConfig
from ssia_zoo.validation import validate


def test_two_real_processes_give_one_processs_gradients(tmp_path: Path) -> None:
    exact = {
        "model": "test_vit",  # no batch statistics
        "optimizer": "momentum",  # SGD, without Nesterov's step
        "momentum": 0.0,
        "lr": 1.0,
        "weight_decay": 0.0,
        "warmup_epochs": 0,
        "schedule": "constant",
        "epochs": 1,
        "ssia.channel": 0.5,
        "ssia.spatial": 0.5,
    }
    small_run(tmp_path / "start", **{**exact, "lr": 1e-30}, max_steps=1)
    single = train_in_a_process(output_dir=tmp_path / "one", batch_size=16, max_steps=1, **exact)
    assert single.returncode == 0, single.stderr
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    double = run(*torchrun, TRAIN, *flags(output_dir=tmp_path / "two", batch_size=8, max_steps=1, **exact))
    assert double.returncode == 0, double.stderr
    described = json.loads((tmp_path / "two" / "config.json").read_text())
    assert described["ssia"]["environment"]["processes"] == "2", "or the test would pass vacuously"

    start, one, two = (weights(tmp_path / name) for name in ("start", "one", "two"))
    gradients = {name: (start[name] - one[name], start[name] - two[name]) for name in start}
    assert sum(bool(single.abs().max() > 1e-4) for single, _ in gradients.values()) > len(gradients) / 2
    for name, (expected, actual) in gradients.items():
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")
    assert json.loads((tmp_path / "one" / "config.json").read_text())["ssia"]["metrics"]["top1"] == pytest.approx(
        described["ssia"]["metrics"]["top1"]
    ), "evaluation counts each image once"


def test_two_processes_report_the_metrics_of_the_weights_that_are_saved(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = run(*torchrun, TRAIN, *flags(output_dir=tmp_path / "run", batch_size=8, max_eval_images=41, ema=0.5))
    assert done.returncode == 0, done.stderr
    described = json.loads((tmp_path / "run" / "config.json").read_text())["ssia"]
    assert described["environment"]["processes"] == "2"
    model = timm.create_model(f"local-dir:{tmp_path / 'run'}", pretrained=True)
    measured = validate(model, DataConfig(dataset="digits", max_eval_images=41, workers=0))
    assert measured["loss"] == pytest.approx(described["metrics"]["loss"], abs=1e-6)


def test_accelerate_launch_runs_the_script(tmp_path: Path) -> None:
    done = run(
        sys.executable, "-m", "accelerate.commands.launch", TRAIN, *flags(output_dir=tmp_path / "run", max_steps=2)
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model.safetensors").exists()
