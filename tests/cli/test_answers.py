"""Answers to folders of images: predict --out and embed."""

from __future__ import annotations

import csv
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from ssia_zoo.cli.main import main
from ssia_zoo.inference import Classifier, Embedder
from tests.helpers.commands import WEIGHT, Captured, failed_in_one_line


def predict(images: Path, out: Path, *flags: str) -> int:
    return main(["predict", str(images), "--model", WEIGHT, "--workers", "0", "--out", str(out), *flags])


@pytest.fixture
def printed(images: Path, capsys: Captured) -> list[dict[str, Any]]:
    """What predict --top 2 --json prints for the images."""
    assert main(["predict", str(images), "--model", WEIGHT, "--top", "2", "--json"]) == 1
    document: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["images"]
    return document


def test_predict_writes_what_it_prints_in_every_format(
    images: Path, printed: list[dict[str, Any]], tmp_path: Path, capsys: Captured
) -> None:
    for suffix in ("csv", "jsonl", "parquet"):
        out = tmp_path / f"x.{suffix}"
        assert predict(images, out, "--top", "2") == 1
        output, error = capsys.readouterr()
        assert output == f"{out}: 2 images, 1 skipped\n"
        assert error.count("\n") == 1
        assert str(images / "b.png") in error
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert lines == pq.read_table(tmp_path / "x.parquet").to_pylist() == printed
    with (tmp_path / "x.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row, image in zip(rows, printed, strict=True):
        second = image["predictions"][1]
        assert (row["path"], row["index2"], row["label2"]) == (image["path"], str(second["index"]), second["label"])
        assert float(row["probability2"]) == pytest.approx(second["probability"])


def test_a_stopped_run_continues_and_a_finished_one_takes_new_images(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    (images / "b.png").write_bytes((images / "c.png").read_bytes())
    out, asked = tmp_path / "x.jsonl", []
    predict_all = Classifier.predict

    def stopped_after_one(self: Classifier, paths: list[Path], *args: Any, **kwargs: Any) -> Iterator[Any]:
        asked.append([path.name for path in paths])
        predictions = predict_all(self, paths, *args, **kwargs)
        if len(asked) == 1:
            yield next(predictions)
            signal.raise_signal(signal.SIGTERM)
        yield from predictions

    monkeypatch.setattr(Classifier, "predict", stopped_after_one)
    assert predict(images, out) == 143
    assert capsys.readouterr() == ("", f"{out}: 1 images have an answer; the same command continues\nstopped\n")
    assert not out.exists()
    assert predict(images, out) == 0
    assert capsys.readouterr() == (f"{out}: 3 images\n", f"{out}: 1 of 3 images have an answer already\n")
    (images / "d.png").write_bytes((images / "c.png").read_bytes())
    assert predict(images, out) == 0
    assert asked == [["a.png", "b.png", "c.png"], ["b.png", "c.png"], ["d.png"]]
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [Path(line["path"]).name for line in lines] == ["a.png", "b.png", "c.png", "d.png"]
    assert {path.name for path in tmp_path.iterdir()} == {images.name, "x.jsonl", "x.jsonl.json"}


def test_other_settings_and_another_model_are_refused(
    images: Path, folder: Path, tmp_path: Path, capsys: Captured
) -> None:
    out = tmp_path / "x.csv"
    assert predict(images, out) == 1
    content = out.read_bytes()
    capsys.readouterr()
    assert predict(images, out, "--top", "1") == 1
    assert "made with top 5, not 1" in failed_in_one_line(capsys)
    assert main(["predict", str(images), "--model", "resnet18_ssia.c10_r32", "--out", str(out)]) == 1
    assert f"answers of {WEIGHT}" in failed_in_one_line(capsys)
    assert out.read_bytes() == content


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_embed_writes_features_names_and_how_they_were_made(
    suffix: str, images: Path, tmp_path: Path, capsys: Captured
) -> None:
    out = tmp_path / f"x.{suffix}"
    words = ["embed", str(images), "--model", WEIGHT, "--batch-size", "1", "--workers", "0", "--out", str(out)]
    assert main(words) == 1
    assert capsys.readouterr().out == f"{out}: 2 images, 1 skipped\n"
    if suffix == "npz":
        with np.load(out) as arrays:
            names, features, about = arrays["images"].tolist(), arrays["features"], json.loads(str(arrays["about"]))
    else:
        table = pq.read_table(out)
        names, features = table["path"].to_pylist(), np.stack(table["features"].to_numpy())
        about = json.loads(table.schema.metadata[b"ssia_zoo"])
    assert names == [str(images / "a.png"), str(images / "c.png")]
    assert (features.shape, features.dtype) == ((2, 1024), np.float32)
    assert (about["command"], about["model"]) == ("embed", WEIGHT)
    assert about["preprocessing"].startswith("3x32x32, bicubic")
    assert main(words) == 1
    assert capsys.readouterr().err.startswith(f"{out}: 2 of 3 images have an answer already\n")


def test_workers_and_batch_size_reach_the_loader(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(Classifier, "predict", lambda *args, **kwargs: iter(seen.append(kwargs) or ()))
    monkeypatch.setattr(Embedder, "embed", lambda *args, **kwargs: iter(seen.append(kwargs) or ()))
    for command in ("predict", "embed"):
        words = [command, str(images), "--model", WEIGHT, "--out", str(tmp_path / f"{command}.parquet")]
        main([*words, "--workers", "3", "--batch-size", "7"])
        main(words)
    given, default = seen[::2], seen[1::2]
    assert [(one["workers"], one["batch_size"]) for one in given] == [(3, 7)] * 2
    assert all(1 <= one["workers"] <= 8 for one in default)


@pytest.mark.parametrize("command", ["predict", "embed"])
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", WEIGHT, "--out", "x.txt"], "--out is x.txt; expected a name that ends in"),
        (["--model", WEIGHT, "--out", "nowhere/x.parquet"], "no folder nowhere"),
        (["--model", "nonesuch", "--out", "x.parquet"], "nonesuch"),
        (["--model", WEIGHT, "--out", "x.parquet", "--workers", "-1"], "--workers is -1"),
        (["--model", WEIGHT, "--out", "x.parquet", "--batch-size", "0"], "--batch-size is 0"),
    ],
)
def test_bad_input_fails_in_one_line_and_writes_nothing(
    command: str,
    flags: list[str],
    message: str,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([command, str(images), *flags]) == 1
    assert message in failed_in_one_line(capsys)
    assert [path.name for path in tmp_path.iterdir()] == [images.name]


def test_without_a_readable_image_nothing_is_written(images: Path, tmp_path: Path, capsys: Captured) -> None:
    for command, out in (("predict", "x.csv"), ("embed", "x.npz")):
        assert main([command, str(images / "b.png"), "--model", WEIGHT, "--out", str(tmp_path / out)]) == 1
        assert "no image can be read" in capsys.readouterr().err
        assert main([command, str(tmp_path / "none"), "--model", WEIGHT, "--out", str(tmp_path / out)]) == 1
        assert "no such file" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [images.name]


@pytest.mark.parametrize(
    "words",
    [
        ["embed", "--model", WEIGHT, "--out", "x.npz"],
        ["embed", "x.png", "--model", WEIGHT],
        ["predict", "x.png", "--model", WEIGHT, "--out", "x.csv", "--json"],
    ],
)
def test_a_wrong_command_line_ends_with_status_2(words: list[str], capsys: Captured) -> None:
    try:
        status = main(words)
    except SystemExit as caught:
        status = caught.code
    assert status == 2
    assert capsys.readouterr().out == ""
