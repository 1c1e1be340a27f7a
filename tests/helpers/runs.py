"""Small training runs for tests: 96 digits, a model of 0.4 M parameters."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from ssia_zoo.training import parse_config, train
from ssia_zoo.training.loop import TrainResult

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ROOT / "train_hf.py"
SMALL = {
    "model": "test_resnet",
    "dataset": "digits",
    "image_size": 32,
    "max_train_images": 96,
    "max_eval_images": 40,
    "batch_size": 16,
    "epochs": 2,
    "workers": 0,
}


def flags(**settings: object) -> list[str]:
    """Return the command line of a small run with these settings on top."""
    words = []
    for name, value in {**SMALL, **settings}.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(flag if value else "--no-" + flag[2:])
        else:
            words += [flag, *map(str, value if isinstance(value, tuple) else (value,))]
    return words


def environment() -> dict[str, str]:
    """Return the environment of a child process: CPU, no network."""
    return {**os.environ, "ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1"}


def run(*command: object, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Run a command and wait for it."""
    words = [str(word) for word in command]
    return subprocess.run(
        words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=timeout, check=False
    )


def train_in_a_process(**settings: object) -> subprocess.CompletedProcess[str]:
    """Run `python train_hf.py`."""
    return run(sys.executable, TRAIN, *flags(**settings))


def small_run(folder: Path, **settings: object) -> TrainResult:
    return train(parse_config(flags(output_dir=folder, **settings)))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same_weights(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
