"""`ssia-zoo finetune`: which images choose the epoch, epochs that fit a time, and the report."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ssia_zoo.cli.main import main
from ssia_zoo.errors import ConfigError
from ssia_zoo.training import finetune as module
from ssia_zoo.training.arguments import read_config
from ssia_zoo.training.config import TrainConfig
from ssia_zoo.training.finetune import finetune, parse_finetune, read_duration
from ssia_zoo.training.metrics import read_records
from tests.helpers.commands import WEIGHT, Captured

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}
QUICK = ("--model", WEIGHT, "--epochs", "1", "--workers", "0", "--batch-size", "4")


@pytest.fixture
def photos(tmp_path: Path, datasets_cache: None) -> Path:
    return write_photos(tmp_path / "photos", [""])


def write_photos(folder: Path, splits: Iterable[str], count: int = 8) -> Path:
    for split, offset in zip(splits, range(0, 100, 30), strict=False):
        for name, (red, green, blue) in COLOURS.items():
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                shade = 2 * number + offset
                Image.new("RGB", (40, 32), (red, green + shade, blue)).save(folder / split / name / f"{number}.png")
    return folder


def test_a_folder_without_splits_gives_a_model_and_a_report_on_what_was_held_out(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    assert main(["finetune", str(photos), *QUICK, "--output-dir", str(out)]) == 0
    printed = caplog.text
    assert "15 % of the training images are held out" in printed
    assert f"report: {out}/report/report.html" in printed
    described = json.loads((out / "config.json").read_text())
    assert described["label_names"] == ["blue", "green", "red"]
    assert described["ssia"]["selection"]["saved"] == "best"
    report = json.loads((out / "report" / "report.json").read_text())
    assert report["images"] == 4  # 15 % of 24
    assert "these images chose the epoch" in (out / "report" / "report.html").read_text()
    assert {"curves.png", "confusion.png", "per_class.csv"} <= {path.name for path in (out / "report").iterdir()}
    again = ["finetune", str(photos), *QUICK, "--output-dir", str(out), "--resume", "auto"]
    assert main(again) == 0, "a second call writes the report again"


def test_a_test_split_is_used_for_the_report_only(
    tmp_path: Path, datasets_cache: None, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_photos(tmp_path / "photos", ["train", "validation", "test"], count=4)
    out = tmp_path / "out"
    assert main(["finetune", str(folder), *QUICK, "--output-dir", str(out)]) == 0
    assert "test: top-1" in caplog.text
    assert read_config(str(out / "train_config.yaml")).eval_split == "validation"
    described = json.loads((out / "config.json").read_text())
    assert described["ssia"]["selection"]["on"] == "validation"
    assert "chose the epoch" not in (out / "report" / "report.html").read_text()


def test_only_a_test_split_beside_train_holds_out(tmp_path: Path, datasets_cache: None) -> None:
    folder = write_photos(tmp_path / "photos", ["train", "test"], count=4)
    config = module._with_holdout(TrainConfig(dataset=str(folder), model=WEIGHT, output_dir="unused"))
    assert (config.holdout, config.eval_split) == (0.15, None)


def test_the_budget_decides_the_epochs(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(module, "_seconds_per_epoch", lambda config, folder: 10.0)
    config, budget = parse_finetune([str(photos), *QUICK, "--budget", "2m", "--output-dir", str(tmp_path / "a")], "x")
    assert budget == 120
    assert module._within(config, budget, start=module.time.monotonic()).epochs == 10  # 0.85 * 120 s / 10 s
    assert module._within(config, 5, start=module.time.monotonic()).epochs == 1
    assert "the budget is too short, and one epoch exceeds it" in caplog.text


def test_the_learning_rate_suits_the_network_unless_it_is_given(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    def rate(*words: str) -> float:
        return parse_finetune(["digits", *words], "x")[0].lr

    assert rate("--model", "test_resnet") == 3e-3
    assert not caplog.messages
    assert rate("--model", "test_vit") == 1e-4
    assert caplog.messages == ["`lr` is 0.0001, as test_vit has no BatchNorm"]
    assert rate("--model", "test_vit", "--lr=0.003") == rate("--model", "test_vit", "--lr", "0.003") == 3e-3


def test_a_timed_epoch_leaves_nothing_behind_and_a_resumed_run_keeps_its_epochs(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    config, _ = parse_finetune([str(photos), *QUICK, "--output-dir", str(out)], "x")
    config = module._with_holdout(config)
    assert 0 < module._seconds_per_epoch(config, out / ".timing") < 600
    assert not list(out.iterdir())
    finetune(config)
    resumed, _ = parse_finetune(
        [str(photos), *QUICK, "--epochs", "7", "--output-dir", str(out), "--resume", "auto"], "x"
    )
    assert module._within(resumed, 100.0, start=0.0).epochs == 1


def test_an_epoch_is_timed_with_the_batch_size_that_fits(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = []

    def noted(path: Path) -> list[dict[str, Any]]:
        speeds.extend(record["images_per_second"] for record in read_records(path) if record["kind"] == "train")
        return read_records(path)

    monkeypatch.setattr(module, "read_records", noted)
    words = [str(photos), *QUICK, "--batch-size", "auto", "--holdout", "0.3", "--output-dir", str(tmp_path / "out")]
    seconds = module._seconds_per_epoch(parse_finetune(words, "x")[0], tmp_path / "out" / ".timing")
    assert 16 <= round(seconds * speeds[-1]) <= 18, "an epoch has 18 images, in a batch of 16"


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("1h30m", 5400), ("600", 600), ("1h", 3600), ("1m5s", 65)]
)
def test_durations(text: str, seconds: float) -> None:
    assert read_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "m", "10 minutes", "-5m", "1.5h"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected a time such as 90s, 10m or 1h30m"):
        read_duration(text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the data set is missing; write ssia-zoo finetune PHOTOS --model NAME"),
        (["--model", WEIGHT], "the data set is missing"),
        (["photos", "--config", "x.yaml"], "--config replaces the recipe"),
        (["photos", "--config=x.yaml"], "--config replaces the recipe"),
        (["photos"], "--model is missing"),
        (["nowhere/", *QUICK], "nowhere"),
    ],
)
def test_finetune_fails_in_one_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["finetune", *words]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_finetune_is_for_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="finetune runs in one process, not 2; for several: accelerate launch"):
        finetune(TrainConfig(model="test_resnet", dataset="digits", output_dir=str(tmp_path / "run")))
