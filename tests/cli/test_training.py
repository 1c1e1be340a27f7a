"""The commands that train: demo, train."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from ssia_zoo.cli.main import main
from tests.helpers.commands import Captured

FOLDERS = ("digits-wrong-labels", "vanilla", "ssia", "hub")


def test_demo_runs_twice_into_new_numbered_folders(tmp_path: Path, capsys: Captured) -> None:
    for number in (1, 2):
        assert main(["demo", "--output-dir", str(tmp_path), "--epochs", "1"]) == 0
        root = tmp_path / f"demo-{number:03d}"
        assert {p.name for p in root.iterdir()} == {*FOLDERS, "curves.png", "attention.png"}
        assert {p.name for p in (root / "hub").iterdir()} == {"config.json", "model.safetensors", "README.md"}
        assert Image.open(root / "attention.png").width > 500
    printed = capsys.readouterr().out
    assert "vanilla" in printed
    assert "parameters" in printed
    assert "479 of 1437 training images have a wrong label" in printed
    assert "this run: SSIA is " in printed
    assert "on 360 test images" in printed
    assert "recorded seeds with 16 epochs" in printed


def test_demo_into_a_file_fails(tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "file"
    file.touch()
    assert main(["demo", "--output-dir", str(file)]) == 1
    assert str(file) in capsys.readouterr().err
    assert main(["demo", "--output-dir", str(tmp_path), "--epochs", "0"]) == 1
    assert "--epochs" in capsys.readouterr().err


def test_train_shows_the_flags_of_training(capsys: Captured) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["train", "--help"])
    assert caught.value.code == 0
    assert "--output-dir" in capsys.readouterr().out


def test_train_passes_its_words_and_returns_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[tuple[list[str], str]] = []

    def training(words: list[str], prog: str) -> int:
        received.append((words, prog))
        return 143

    monkeypatch.setattr("ssia_zoo.training.main", training)
    words = ["--dataset", "digits", "--no-hflip"]
    assert main(["train", *words]) == 143
    assert received == [(words, "ssia-zoo train")]


def test_train_writes_what_train_hf_writes(tmp_path: Path) -> None:
    flags = ["--model", "test_resnet", "--dataset", "digits", "--image-size", "32", "--max-steps", "1"]
    assert main(["train", *flags, "--workers", "0", "--output-dir", str(tmp_path / "run")]) == 0
    assert {"config.json", "model.safetensors", "README.md"} <= {path.name for path in (tmp_path / "run").iterdir()}


@pytest.mark.parametrize(
    ("flags", "status"), [(["--dataset", "./nowhere", "--output-dir", "{}"], 1), (["--nonesuch"], 2)]
)
def test_train_fails_with_a_documented_status(flags: list[str], status: int, tmp_path: Path, capsys: Captured) -> None:
    try:
        returned = main(["train", *(flag.format(tmp_path / "run") for flag in flags)])
    except SystemExit as caught:
        returned = caught.code
    assert returned == status
    assert "Traceback" not in capsys.readouterr().err
