"""Credentials in the Hub's address are neither printed nor written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

WITH_PASSWORD = "http://alice:s3cret@127.0.0.1:9"
TRAIN = "train --dataset digits --output-dir {folder}/run"


@pytest.mark.parametrize(
    ("endpoint", "command"),
    [
        ("http://alice:s3%2Fc%23ret@127.0.0.1:9", "publish {folder} org/name"),
        ("alice:s3cret@127.0.0.1:9", "verify hf-hub:org/name"),
        (WITH_PASSWORD, "validate mobilenetv3_small_050_ssia --dataset org/name"),
        (WITH_PASSWORD, f"{TRAIN} --model hf-hub:org/name --pretrained"),
        (
            WITH_PASSWORD,
            f"{TRAIN} --model test_resnet --max-steps 1 --max-train-images 32 --max-eval-images 8 --image-size 32 "
            "--batch-size 16 --workers 0 --push-to-hub --hub-model-id org/name",
        ),
    ],
)
def test_no_command_prints_the_credentials_of_an_address(folder: Path, endpoint: str, command: str) -> None:
    Image.new("RGB", (8, 8)).save(folder / "x.png")
    words = [word.format(folder=folder) for word in command.split()]
    program = ["train_hf", *words[1:]] if words[0] == "train" else ["ssia_zoo.cli", *words]
    variables = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_good"}
    done = subprocess.run(
        [sys.executable, "-m", *program], env=variables, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 1 or "--push-to-hub" in words, done.stderr
    assert "127.0.0.1:9" in done.stderr or "org/name" in done.stderr
    written = [path.read_bytes() for path in (folder / "run").rglob("*") if path.is_file()]
    for secret in ("alice", "s3cret", "s3%2F", "ret@"):
        assert secret not in done.stdout + done.stderr
        assert not any(secret.encode() in content for content in written)
