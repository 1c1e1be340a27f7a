"""The command `ssia-zoo`: what it does, and how it fails."""

from __future__ import annotations

from pathlib import Path

import pytest
from hub_server import HubServer
from PIL import Image

from ssia_zoo.cli import main


@pytest.mark.parametrize("command", [[], ["demo"], ["publish"], ["validate"]])
def test_help_says_what_a_command_does(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    assert "ssia-zoo" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["nonesuch"], ["demo", "--nonesuch"], ["publish", "only-one"], []])
def test_a_wrong_command_line_ends_with_status_2(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(wrong)
    assert caught.value.code == 2
    assert capsys.readouterr().out == ""


def test_publish_prints_where_it_went(
    hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert main(["publish", str(folder), "org/name"]) == 0
    assert hub.url in capsys.readouterr().out


def test_publish_without_a_token_fails_in_one_line_with_the_command_to_repeat(
    hub: HubServer, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["publish", str(folder), "org/name"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert "ssia-zoo publish" in err


def test_validate_measures_a_published_weight(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "mobilenetv3_small_050_ssia", "--dataset", "digits", "--workers", "0"]) == 0
    assert "360 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "dataset", "message"),
    [
        ("nonesuch", "digits", "nonesuch"),
        ("test_resnet_ssia", "digits", "test_resnet_ssia"),
        ("mobilenetv3_small_050_ssia.nowhere", "digits", "digits_r32"),
        ("mobilenetv3_small_050_ssia", "./nowhere", "nowhere"),
        ("local-dir:/nowhere", "digits", "/nowhere"),
    ],
)
def test_validate_fails_in_one_line(model: str, dataset: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", model, "--dataset", dataset, "--workers", "0"]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert "Traceback" not in error


def test_demo_runs_twice_into_new_numbered_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (1, 2):
        assert main(["demo", "--output-dir", str(tmp_path), "--epochs", "1"]) == 0
        root = tmp_path / f"demo-{number:03d}"
        assert {p.name for p in root.iterdir()} == {"vanilla", "ssia", "hub", "curves.png", "attention.png"}
        assert {p.name for p in (root / "hub").iterdir()} == {"config.json", "model.safetensors", "README.md"}
        assert Image.open(root / "attention.png").width > 500
    printed = capsys.readouterr().out
    assert "vanilla" in printed
    assert "parameters" in printed
    assert "too easy to show a gain" in printed


def test_demo_into_what_is_no_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file"
    file.touch()
    assert main(["demo", "--output-dir", str(file)]) == 1
    assert str(file) in capsys.readouterr().err
    assert main(["demo", "--output-dir", str(tmp_path), "--epochs", "0"]) == 1
    assert "--epochs" in capsys.readouterr().err
