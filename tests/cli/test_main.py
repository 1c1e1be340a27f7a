"""The command `ssia-zoo`: what it does, and how it fails."""

from __future__ import annotations

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
from ssia_zoo import cli
from ssia_zoo.cli import main
from tests.helpers.hub_server import HubServer

WEIGHT = "mobilenetv3_small_050_ssia"
FULL = f"{WEIGHT}.digits_r32"
COMMANDS = ("list", "info", "predict", "explain", "fetch", "verify", "validate", "publish", "export", "demo")

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of three digits, made of noise, one of which is damaged."""
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


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_has_examples(command: str, capsys: Captured) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"  ssia-zoo {command}" in capsys.readouterr().out


def test_help_has_the_commands_and_the_exit_statuses(capsys: Captured) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    for said in (*(f"• {command}" for command in COMMANDS), "  1 ", "  2 ", "  130 ", "  141 ", "  143 "):
        assert said in printed


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
    ("error", "said"),
    [(RuntimeError("a\nbug"), "RuntimeError: a bug"), (OSError(28, "No space left on device"), "No space left")],
)
def test_what_nobody_foresaw_is_one_line_too(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setitem(cli._COMMANDS, "demo", fail)
    assert main(["demo"]) == 1
    assert said in failed_in_one_line(capsys)
    monkeypatch.setenv("SSIA_ZOO_DEBUG", "1")
    assert main(["demo"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_reader_that_goes_ends_the_command_silently() -> None:
    process = start("list")
    process.stdout.close()  # type: ignore[union-attr]
    error = process.stderr.read()  # type: ignore[union-attr]
    assert (process.wait(), error) == (141, "")


def test_piped_output_is_plain_and_json_alone() -> None:
    table, document = start("list"), start("list", "--json")
    printed, error = table.communicate()
    assert (table.returncode, error) == (0, "")
    assert FULL in printed
    assert "\x1b" not in printed
    printed, error = document.communicate()
    assert (document.returncode, error) == (0, "")
    assert [row["name"] for row in json.loads(printed)] == sorted(ssia_zoo.weights())


# --- list, info, fetch, verify ----------------------------------------------------------------------------------------


def test_list_shows_a_weight_beside_its_control(capsys: Captured) -> None:
    assert main(["list", "mobilenet*", "--dataset", "digits"]) == 0
    metrics = ssia_zoo.weights()[FULL].metrics
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(FULL))
    for said in (f"{metrics.top1:.2f}", f"{metrics.control_top1:.2f}", "32×32", "embedded", "MB"):
        assert said in line


@pytest.mark.parametrize(("flags", "printed"), [([], ""), (["--json"], "[]\n")])
def test_list_says_that_nothing_fits(flags: list[str], printed: str, capsys: Captured) -> None:
    assert main(["list", "nonesuch", *flags]) == 1
    out, err = capsys.readouterr()
    assert out == printed
    assert "no published weight fits" in err


def test_info_tells_what_json_tells(capsys: Captured) -> None:
    assert main(["info", WEIGHT, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["name"] == FULL
    assert main(["info", FULL]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for said in (told["description"], told["dataset"]["terms"], told["reproduce"], told["sha256"], "reconstruction"):
        assert said in text


@pytest.mark.parametrize("command", ["info", "fetch"])
def test_an_unknown_weight_is_answered_with_the_nearest(command: str, capsys: Captured) -> None:
    assert main([command, "mobilenetv3_smal_050_ssia"]) == 1
    assert WEIGHT in failed_in_one_line(capsys)


def test_fetch_prints_the_file_or_makes_a_folder_that_timm_loads(tmp_path: Path, capsys: Captured) -> None:
    assert main(["fetch", WEIGHT]) == 0
    assert Path(capsys.readouterr().out.strip()).name == f"{FULL}.safetensors"
    folder = tmp_path / "new" / "folder"
    assert main(["fetch", WEIGHT, "--out", str(folder)]) == 0
    assert Path(capsys.readouterr().out.strip()) == folder
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert timm.create_model(f"local-dir:{folder}", pretrained=True).num_classes == 10


def test_fetch_into_what_is_no_folder_is_refused(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "file").touch()
    assert main(["fetch", WEIGHT, "--out", str(tmp_path / "file")]) == 1
    assert str(tmp_path / "file") in failed_in_one_line(capsys)


def test_verify_finds_a_published_weight_sound_and_a_changed_folder_not(folder: Path, capsys: Captured) -> None:
    assert main(["verify", WEIGHT, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    assert main(["verify", str(folder)]) == 1
    assert "failed" in capsys.readouterr().out.lower()


def test_verify_of_what_is_nowhere_is_refused(capsys: Captured) -> None:
    assert main(["verify", "./nowhere"]) == 1
    assert "nowhere" in failed_in_one_line(capsys)


# --- predict, explain -------------------------------------------------------------------------------------------------


def test_predict_names_the_damaged_image_and_goes_on(images: Path, capsys: Captured) -> None:
    assert main(["predict", str(images), "--model", WEIGHT, "--top", "2", "--json"]) == 1
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert [Path(image["path"]).name for image in told["images"]] == ["a.png", "c.png"]
    assert [Path(image["path"]).name for image in told["skipped"]] == ["b.png"]
    for image in told["images"]:
        first, second = image["predictions"]
        assert first["probability"] >= second["probability"]
        assert first["label"] == ssia_zoo.weights()[FULL].label_names[first["index"]]
    assert err.count("\n") == 1
    assert str(images / "b.png") in err


def test_predict_prints_a_line_an_image_for_top_1_and_a_block_else(images: Path, capsys: Captured) -> None:
    files = [str(images / name) for name in ("c.png", "a.png")]
    assert main(["predict", *files, "--model", WEIGHT, "--top", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.rsplit("  ", 2)[0] for line in lines] == files
    assert main(["predict", *files, "--model", FULL, "--batch-size", "1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 * (1 + 5)


def test_predict_takes_a_folder_as_model(images: Path, folder: Path, capsys: Captured) -> None:
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
        (images / "a.png", "nonesuch", str(images / "a.png" / "x.png"), "--out"),  # before the model is looked for
        (images / "a.png", WEIGHT, str(tmp_path / "x.gif"), "--out"),
    ):
        assert main(["explain", str(image), "--model", model, "--out", path]) == 1
        assert message in failed_in_one_line(capsys)
    assert not Path(out).exists()


# --- publish, validate, export, demo ----------------------------------------------------------------------------------


def test_publish_all_prints_where_each_weight_went(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    asked = []

    def publish_all(org: str, *, private: bool, repeat: str) -> list[object]:
        asked.append((org, private))
        return ["x: https://hub/org/x"]

    monkeypatch.setattr("ssia_zoo.models.release.publish_all", publish_all)
    assert main(["publish", "--all", "--org", "org", "--private"]) == 0
    assert asked == [("org", True)]
    assert capsys.readouterr().out == "x: https://hub/org/x\n"


def test_publish_prints_where_it_went(
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


def test_validate_prints_json_of_a_part_at_another_size(capsys: Captured) -> None:
    flags = ["--workers", "0", "--max-eval-images", "50", "--image-size", "48", "--json"]
    assert main(["validate", WEIGHT, "--dataset", "digits", *flags]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told.keys() == {"model", "dataset", "top1", "top5", "loss", "images"}
    assert told["images"] == 50


def test_export_takes_its_flags(tmp_path: Path, capsys: Captured) -> None:
    assert main(["export", "nonesuch", WEIGHT, "--out", str(tmp_path / "x")]) == 1
    assert "nonesuch" in failed_in_one_line(capsys)
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


def test_demo_into_what_is_no_folder_is_refused(tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "file"
    file.touch()
    assert main(["demo", "--output-dir", str(file)]) == 1
    assert str(file) in capsys.readouterr().err
    assert main(["demo", "--output-dir", str(tmp_path), "--epochs", "0"]) == 1
    assert "--epochs" in capsys.readouterr().err
