"""The commands about models: predict, explain, verify, validate."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from PIL import Image

import ssia_zoo
from ssia_zoo.cli.main import main
from tests.helpers.commands import FULL, WEIGHT, Captured, failed_in_one_line


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
    "words",
    [
        ["explain", "x.png", "--model", WEIGHT, "--out", "x.png"],
        ["demo", "--output-dir", "runs"],
        ["validate", WEIGHT, "--dataset", "digits", "--report", "report"],
        ["compare", WEIGHT, WEIGHT, "--dataset", "digits", "--report", "report"],
    ],
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


def test_validate_measures_a_published_weight(capsys: Captured) -> None:
    assert main(["validate", "mobilenetv3_small_050_ssia", "--dataset", "digits", "--workers", "0"]) == 0
    assert "360 images" in capsys.readouterr().out


def test_validate_prints_json_for_a_subset_at_another_size(capsys: Captured) -> None:
    flags = ["--workers", "0", "--max-eval-images", "50", "--image-size", "48", "--json"]
    assert main(["validate", WEIGHT, "--dataset", "digits", *flags]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document.keys() == {"model", "dataset", "top1", "top5", "loss", "images"}
    assert document["images"] == 50


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


def test_verify_reads_the_given_split_and_labels(tmp_path: Path, capsys: Captured) -> None:
    assert main(["verify", WEIGHT, "--dataset", "digits", "--eval-split", "nonsense"]) == 1
    assert "there is no split 'nonsense'" in failed_in_one_line(capsys)
    assert main(["verify", WEIGHT, "--dataset", str(tmp_path), "--labels", str(tmp_path / "none.csv")]) == 1
    assert "none.csv does not exist" in failed_in_one_line(capsys)
    assert main(["verify", WEIGHT, "--eval-split", "test"]) == 2
    assert "--eval-split and --labels need --dataset" in failed_in_one_line(capsys)
