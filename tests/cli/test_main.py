"""The command `ssia-zoo`."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
from PIL import Image

import ssia_zoo
from ssia_zoo.cli.main import _COMMANDS, main
from tests.helpers.hub_server import HubServer

WEIGHT = "mobilenetv3_small_050_ssia"
FULL = f"{WEIGHT}.digits_r32"

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of three noise images, one of them damaged."""
    folder = tmp_path / "some images"
    folder.mkdir()
    for name in "abc":
        pixels = np.random.default_rng(ord(name)).integers(0, 255, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    (folder / "b.png").write_bytes(b"damaged")
    return folder


def start(*words: str, **options: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "ssia_zoo.cli", *words]
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )  # type: ignore[call-overload]


def failed_in_one_line(capsys: Captured) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


# --- The command line itself ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", sorted(set(_COMMANDS) - {"train"}))
def test_help_of_a_command_has_examples(command: str, capsys: Captured) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"  ssia-zoo {command}" in capsys.readouterr().out


def test_help_has_the_commands_and_the_exit_statuses(capsys: Captured) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    for text in (*(f"\n  {command} " for command in _COMMANDS), "  1 ", "  2 ", "  130 ", "  141 ", "  143 "):
        assert text in printed
    assert max(map(len, printed.splitlines())) <= 110


def test_an_unknown_command_suggests_the_nearest(capsys: Captured) -> None:
    assert main(["exprot"]) == 2
    assert "'exprot'; did you mean export?" in failed_in_one_line(capsys)


@pytest.mark.parametrize(
    "wrong",
    [
        ["nonesuch"],
        [],
        ["demo", "--nonesuch"],
        ["info"],
        ["predict", "x.png"],
        ["predict", "--model", WEIGHT],
        ["predict", "x.png", "--model", WEIGHT, "--top", "many"],
        ["explain", "x.png", "--model", WEIGHT],
        ["validate", WEIGHT],
        ["publish"],
        ["publish", "only-one"],
        ["publish", "--all"],
        ["publish", "--org", "org"],
        ["publish", "folder", "org/name", "--all", "--org", "org"],
        ["export", "onnx"],
    ],
)
def test_a_wrong_command_line_ends_with_status_2(wrong: list[str], capsys: Captured) -> None:
    try:
        status = main(wrong)
    except SystemExit as caught:
        status = caught.code
    assert status == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("error", "message"),
    [(RuntimeError("a\nbug"), "RuntimeError: a bug"), (OSError(28, "No space left on device"), "No space left")],
)
def test_an_unexpected_error_is_one_line(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setitem(_COMMANDS, "demo", fail)
    assert main(["demo"]) == 1
    assert message in failed_in_one_line(capsys)
    monkeypatch.setenv("SSIA_ZOO_DEBUG", "1")
    assert main(["demo"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_closed_pipe_ends_the_command_silently() -> None:
    process = start("list")
    process.stdout.close()  # type: ignore[union-attr]
    error = process.stderr.read()  # type: ignore[union-attr]
    assert (process.wait(), error) == (141, "")


def test_piped_output_is_plain_text_or_only_json() -> None:
    table, document = start("list"), start("list", "--json")
    printed, error = table.communicate()
    assert (table.returncode, error) == (0, "")
    assert FULL in printed
    assert "\x1b" not in printed
    printed, error = document.communicate()
    assert (document.returncode, error) == (0, "")
    assert [row["name"] for row in json.loads(printed)] == sorted(ssia_zoo.weights())


# --- list, info, fetch, verify ----------------------------------------------------------------------------------------


def test_list_shows_a_weight_with_its_control(capsys: Captured) -> None:
    assert main(["list", "mobilenet*", "--dataset", "digits"]) == 0
    metrics = ssia_zoo.weights()[FULL].metrics
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(FULL))
    for text in (f"{metrics.top1:.2f}", f"{metrics.control_top1:.2f}", "32×32", "embedded", "MB"):
        assert text in line


@pytest.mark.parametrize(("flags", "printed"), [([], ""), (["--json"], "[]\n")])
def test_list_reports_that_nothing_matches(flags: list[str], printed: str, capsys: Captured) -> None:
    assert main(["list", "nonesuch", *flags]) == 1
    out, err = capsys.readouterr()
    assert out == printed
    assert "no published weight matches" in err


def test_info_prints_what_json_prints(capsys: Captured) -> None:
    assert main(["info", WEIGHT, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["name"] == FULL
    assert main(["info", FULL]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for text in (
        document["description"],
        document["dataset"]["terms"],
        document["reproduce"],
        document["sha256"],
        "reconstruction",
    ):
        assert text in printed


@pytest.mark.parametrize("command", ["info", "fetch"])
def test_an_unknown_weight_suggests_the_nearest(command: str, capsys: Captured) -> None:
    assert main([command, "mobilenetv3_smal_050_ssia"]) == 1
    assert WEIGHT in failed_in_one_line(capsys)


def test_fetch_prints_the_file_or_writes_a_folder_that_timm_loads(tmp_path: Path, capsys: Captured) -> None:
    assert main(["fetch", WEIGHT]) == 0
    assert Path(capsys.readouterr().out.strip()).name == f"{FULL}.safetensors"
    folder = tmp_path / "new" / "folder"
    assert main(["fetch", WEIGHT, "--out", str(folder)]) == 0
    assert Path(capsys.readouterr().out.strip()) == folder
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert timm.create_model(f"local-dir:{folder}", pretrained=True).num_classes == 10


def test_fetch_into_a_file_fails(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "file").touch()
    assert main(["fetch", WEIGHT, "--out", str(tmp_path / "file")]) == 1
    assert str(tmp_path / "file") in failed_in_one_line(capsys)


def test_verify_passes_a_published_weight_and_fails_a_damaged_folder(folder: Path, capsys: Captured) -> None:
    assert main(["verify", WEIGHT, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    assert main(["verify", str(folder)]) == 1
    assert "failed" in capsys.readouterr().out.lower()


def test_verify_of_a_missing_folder_fails(capsys: Captured) -> None:
    assert main(["verify", "./nowhere"]) == 1
    assert "nowhere" in failed_in_one_line(capsys)


# --- predict, explain -------------------------------------------------------------------------------------------------


def test_predict_reports_the_damaged_image_and_continues(images: Path, capsys: Captured) -> None:
    assert main(["predict", str(images), "--model", WEIGHT, "--top", "2", "--json"]) == 1
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert [Path(image["path"]).name for image in document["images"]] == ["a.png", "c.png"]
    assert [Path(image["path"]).name for image in document["skipped"]] == ["b.png"]
    for image in document["images"]:
        first, second = image["predictions"]
        assert first["probability"] >= second["probability"]
        assert first["label"] == ssia_zoo.weights()[FULL].label_names[first["index"]]
    assert err.count("\n") == 1
    assert str(images / "b.png") in err


def test_predict_prints_a_line_per_image_for_top_1_and_else_a_block(images: Path, capsys: Captured) -> None:
    files = [str(images / name) for name in ("c.png", "a.png")]
    assert main(["predict", *files, "--model", WEIGHT, "--top", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.rsplit("  ", 2)[0] for line in lines] == files
    assert main(["predict", *files, "--model", FULL, "--batch-size", "1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 * (1 + 5)


def test_predict_accepts_a_folder_as_model(images: Path, folder: Path, capsys: Captured) -> None:
    assert main(["predict", str(images / "a.png"), "--model", str(folder), "--top", "1"]) == 0
    assert "class " in capsys.readouterr().out


def test_predict_without_a_readable_image_fails(tmp_path: Path, capsys: Captured) -> None:
    assert main(["predict", str(tmp_path), str(tmp_path / "x.png"), "--model", WEIGHT]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "nonesuch"], "nonesuch"),
        (["--model", "./nowhere"], "nowhere"),
        (["--model", WEIGHT, "--top", "0"], "--top"),
        (["--model", WEIGHT, "--batch-size", "0"], "--batch-size"),
    ],
)
def test_predict_fails_in_one_line(flags: list[str], message: str, images: Path, capsys: Captured) -> None:
    assert main(["predict", str(images / "a.png"), *flags]) == 1
    assert message in failed_in_one_line(capsys)


def test_explain_draws_two_models(images: Path, folder: Path, tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "new" / "x.png"
    words = ["explain", str(images / "a.png"), "--model", WEIGHT, "--vs", str(folder), "--out", str(out)]
    assert main(words) == 0
    assert Image.open(out).width > 1000
    printed = capsys.readouterr().out
    assert printed.startswith(f"{WEIGHT}: ")
    assert printed.endswith(f"{out}\n")


def test_explain_fails_in_one_line(images: Path, tmp_path: Path, capsys: Captured) -> None:
    out = str(tmp_path / "x.png")
    for image, model, path, message in (
        (images / "b.png", WEIGHT, out, "b.png"),
        (images / "none.png", WEIGHT, out, "none.png"),
        (images / "a.png", "nonesuch", out, "nonesuch"),
        (images / "a.png", "nonesuch", str(images / "a.png" / "x.png"), "--out"),  # checked before the model is loaded
        (images / "a.png", WEIGHT, str(tmp_path / "x.gif"), "--out"),
    ):
        assert main(["explain", str(image), "--model", model, "--out", path]) == 1
        assert message in failed_in_one_line(capsys)
    assert not Path(out).exists()


@pytest.mark.parametrize(
    "words", [["explain", "x.png", "--model", WEIGHT, "--out", "x.png"], ["demo", "--output-dir", "runs"]]
)
def test_without_matplotlib_the_extra_is_named_before_any_work(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "matplotlib" else find(name, *a))
    assert main(words) == 1
    assert failed_in_one_line(capsys) == "error: drawing needs matplotlib; run: pip install 'ssia-zoo[plots]'\n"
    assert not list(tmp_path.iterdir())


# --- publish, validate, export, demo ----------------------------------------------------------------------------------


def test_publish_all_prints_the_address_of_each_weight(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    asked = []

    def publish_all(org: str, *, private: bool, repeat: str) -> list[object]:
        asked.append((org, private))
        return ["x: https://hub/org/x"]

    monkeypatch.setattr("ssia_zoo.models.release.publish_all", publish_all)
    assert main(["publish", "--all", "--org", "org", "--private"]) == 0
    assert asked == [("org", True)]
    assert capsys.readouterr().out == "x: https://hub/org/x\n"


def test_publish_prints_the_address(
    hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert main(["publish", str(folder), "org/name"]) == 0
    assert hub.url in capsys.readouterr().out


def test_publish_without_a_token_fails_in_one_line_with_the_command_to_repeat(
    hub: HubServer, folder: Path, capsys: Captured
) -> None:
    assert main(["publish", str(folder), "org/name"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert "ssia-zoo publish" in err


def test_validate_measures_a_published_weight(capsys: Captured) -> None:
    assert main(["validate", "mobilenetv3_small_050_ssia", "--dataset", "digits", "--workers", "0"]) == 0
    assert "360 images" in capsys.readouterr().out


def test_validate_prints_json_for_a_subset_at_another_size(capsys: Captured) -> None:
    flags = ["--workers", "0", "--max-eval-images", "50", "--image-size", "48", "--json"]
    assert main(["validate", WEIGHT, "--dataset", "digits", *flags]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document.keys() == {"model", "dataset", "top1", "top5", "loss", "images"}
    assert document["images"] == 50


def test_export_writes_the_file(tmp_path: Path, capsys: Captured) -> None:
    assert main(["export", "nonesuch", WEIGHT, "--out", str(tmp_path / "x")]) == 1
    assert "nonesuch" in failed_in_one_line(capsys)
    assert main(["export", "torch-export", "test_vit_ssia", "--out", str(tmp_path / "x.pt2")]) == 1
    assert "test_vit_ssia" in failed_in_one_line(capsys)
    out = tmp_path / "x.pt2"
    assert main(["export", "torch-export", WEIGHT, "--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    assert out.is_file()


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
def test_validate_fails_in_one_line(model: str, dataset: str, message: str, capsys: Captured) -> None:
    assert main(["validate", model, "--dataset", dataset, "--workers", "0"]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert "Traceback" not in error


def test_demo_runs_twice_into_new_numbered_folders(tmp_path: Path, capsys: Captured) -> None:
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


def test_demo_into_a_file_fails(tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "file"
    file.touch()
    assert main(["demo", "--output-dir", str(file)]) == 1
    assert str(file) in capsys.readouterr().err
    assert main(["demo", "--output-dir", str(tmp_path), "--epochs", "0"]) == 1
    assert "--epochs" in capsys.readouterr().err


# --- train ------------------------------------------------------------------------------------------------------------


def test_train_shows_the_flags_of_training(capsys: Captured) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["train", "--help"])
    assert caught.value.code == 0
    assert "--output-dir" in capsys.readouterr().out


def test_train_passes_its_words_and_returns_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[list[str]] = []

    def training(words: list[str]) -> int:
        received.append(words)
        return 143

    monkeypatch.setattr("ssia_zoo.training.main", training)
    words = ["--dataset", "digits", "--no-hflip"]
    assert main(["train", *words]) == 143
    assert received == [words]


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
