"""Credentials in the Hub's address are neither printed nor written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

WITH_PASSWORD = "http://alice:s3cret@127.0.0.1:9"
TRAIN = "train --dataset digits --output-dir {folder}/run"
COMMANDS = {
    "publish": ("http://alice:s3%2Fc%23ret@127.0.0.1:9", "publish {folder} org/name"),
    "verify": ("alice:s3cret@127.0.0.1:9", "verify hf-hub:org/name"),
    "validate": (WITH_PASSWORD, "validate mobilenetv3_small_050_ssia --dataset org/name"),
    "pretrained": (WITH_PASSWORD, f"{TRAIN} --model hf-hub:org/name --pretrained"),
    "push": (
        WITH_PASSWORD,
        f"{TRAIN} --model test_resnet --max-steps 1 --max-train-images 32 --max-eval-images 8 --image-size 32 "
        "--batch-size 16 --workers 0 --push-to-hub --hub-model-id org/name",
    ),
}


@pytest.fixture(scope="module")
def started(
    pristine: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, tuple[Path, subprocess.Popen[str]]]]:
    """All commands at once: each waits half a minute for an address where nobody answers."""
    processes = {}
    for name, (endpoint, command) in COMMANDS.items():
        folder = tmp_path_factory.mktemp(name)
        publishable = shutil.copytree(pristine, folder / "my run")
        words = [word.format(folder=publishable) for word in command.split()]
        program = ["train_hf", *words[1:]] if words[0] == "train" else ["ssia_zoo.cli", *words]
        variables = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_good"}
        with (folder / "stdout").open("w") as out, (folder / "stderr").open("w") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", *program], env=variables, stdout=out, stderr=err, text=True
            )
        processes[name] = (folder, process)
    yield processes
    for _, process in processes.values():
        process.kill()
        process.wait()


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_prints_the_credentials_of_an_address(
    name: str, started: dict[str, tuple[Path, subprocess.Popen[str]]]
) -> None:
    folder, process = started[name]
    process.wait(timeout=300)
    err = (folder / "stderr").read_text()
    assert process.returncode == 1 or name == "push", err
    assert "127.0.0.1:9" in err or "org/name" in err
    written = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert written
    for secret in ("alice", "s3cret", "s3%2F", "ret@"):
        assert not any(secret.encode() in content for content in written)


def test_a_line_of_the_hub_library_appears_once(started: dict[str, tuple[Path, subprocess.Popen[str]]]) -> None:
    folder, process = started["validate"]
    process.wait(timeout=300)
    assert (folder / "stderr").read_text().count("[Retry 1/5]") == 1
