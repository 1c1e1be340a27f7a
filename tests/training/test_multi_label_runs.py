"""Runs on images with several labels: train, evaluate, load elsewhere, predict."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageClassification

from ssia_zoo.cli import main
from ssia_zoo.data import DataConfig
from ssia_zoo.errors import ConfigError
from ssia_zoo.evaluation.validate import validate
from ssia_zoo.inference.classifier import Classifier
from ssia_zoo.models.label_names import multi_label_threshold
from ssia_zoo.models.loading import load_model
from ssia_zoo.training import parse_config, train
from ssia_zoo.training.metrics import read_records
from tests.helpers.colours import write_mixed_colours
from tests.helpers.runs import same_weights, small_run


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mixed_colours(tmp_path_factory.mktemp("colours"))


def settings(photos: Path, **others: object) -> dict[str, object]:
    given = {"dataset": photos, "labels": photos.parent / "labels.csv", "holdout": 0.25, "max_eval_images": 99}
    return {**given, "method": "vanilla", "lr": 0.01, "epochs": 6, "batch_size": 12, **others}


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("runs") / "vanilla", **settings(photos)).folder


def test_a_run_learns_several_labels_and_describes_them(trained: Path) -> None:
    records = [record for record in read_records(trained / "metrics.jsonl") if record["kind"] == "eval"]
    assert records[-1]["map"] > 90
    assert {"micro_f1", "macro_f1", "sample_f1", "threshold", "loss", "images"} <= records[-1].keys()
    config = json.loads((trained / "config.json").read_text())
    assert (config["problem_type"], config["label_names"]) == (
        "multi_label_classification",
        ["blue", "green", "red"],
    )
    assert config["threshold"] == config["ssia"]["metrics"]["threshold"] == records[-1]["threshold"]
    assert config["ssia"]["training"]["labels"] == "labels.csv", "without the folders of this machine"
    card = (trained / "README.md").read_text()
    assert "| evaluated on | images | mAP, % | micro F1, % | macro F1, % |" in card
    assert "chosen on these images for the highest micro F1" in card
    assert "name: mAP" in card
    assert (trained / "curves.png").exists()


def test_the_model_is_multi_label_in_transformers_and_here(trained: Path, photos: Path) -> None:
    ours = Classifier(load_model(str(trained)))
    assert ours.threshold == json.loads((trained / "config.json").read_text())["threshold"]
    theirs = AutoModelForImageClassification.from_pretrained(trained).eval()
    assert theirs.config.problem_type == "multi_label_classification"
    pixels = torch.randn(2, 3, 32, 32)
    outputs = theirs(pixels, labels=torch.tensor([[1.0, 1.0, 0.0]] * 2))
    assert torch.isfinite(outputs.loss)
    torch.testing.assert_close(ours.probabilities(pixels), outputs.logits.sigmoid().detach())


def test_prediction_gives_each_class_from_the_threshold_on(
    trained: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [str(photos / name) for name in ("0.png", "2.png", "6.png")]
    assert main(["predict", *images, "--model", str(trained), "--json"]) == 0
    found = [{p["label"] for p in image["predictions"]} for image in json.loads(capsys.readouterr().out)["images"]]
    assert found == [{"red"}, {"red", "green"}, {"red", "green", "blue"}]
    assert main(["predict", images[0], "--model", str(trained), "--threshold", "1"]) == 0
    assert capsys.readouterr().out == f"{images[0]}  no class reaches the threshold\n"
    assert main(["predict", images[2], "--model", str(trained), "--top", "1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert main(["predict", images[0], "--model", str(trained), "--threshold", "2"]) == 1
    assert "--threshold is 2; expected a probability from 0 to 1" in capsys.readouterr().err


def test_validation_repeats_the_metrics_of_the_run(
    trained: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stated = json.loads((trained / "config.json").read_text())["ssia"]["metrics"]
    model = load_model(str(trained))
    config = DataConfig(str(photos), labels=str(photos.parent / "labels.csv"), holdout=0.25, workers=0)
    measured = validate(model, config)
    assert measured.pop("images") == 12
    assert measured == pytest.approx(stated, rel=1e-4)
    words = ["--dataset", str(photos), "--labels", config.labels or "", "--holdout", "0.25", "--workers", "0"]
    assert main(["validate", str(trained), *words]) == 0
    assert f"mAP {stated['map']:.2f} %, micro F1 " in capsys.readouterr().out


def test_a_model_of_single_labels_is_validated_with_a_warning(
    photos: Path, caplog: pytest.LogCaptureFixture, trained: Path
) -> None:
    model = load_model(str(trained))
    del model._multi_label_threshold
    assert multi_label_threshold(model) is None
    validate(model, DataConfig(str(photos), labels=str(photos.parent / "labels.csv"), holdout=0.25, workers=0))
    assert "the images have several labels, but the model was trained for one" in caplog.text


@pytest.mark.parametrize("method", ["ssia", "dsn", "at"])
def test_objectives_that_fit_several_labels_train(photos: Path, tmp_path: Path, method: str) -> None:
    small_run(tmp_path / "run", **settings(photos, method=method, epochs=1, image_size=64))
    last = read_records(tmp_path / "run" / "metrics.jsonl")[-1]
    assert 0 < last["map"] <= 100


@pytest.mark.parametrize("method", ["byot", "dks"])
def test_objectives_with_a_distribution_over_classes_are_refused(photos: Path, tmp_path: Path, method: str) -> None:
    with pytest.raises(ConfigError, match=f"`method` {method} compares distributions over classes, but the images"):
        small_run(tmp_path / "run", **settings(photos, method=method))


@pytest.mark.parametrize("setting", [{"class_weights": "auto"}, {"balanced_sampling": True}])
def test_settings_that_need_one_label_an_image_are_refused(
    photos: Path, trained: Path, tmp_path: Path, setting: dict[str, object]
) -> None:
    given = settings(photos, model=f"local-dir:{trained}", pretrained=True, **setting)
    with pytest.raises(ConfigError, match=f"`{next(iter(setting))}` needs one label an image, but the images have"):
        small_run(tmp_path / "run", **given)


def test_a_probe_of_several_labels_is_refused(photos: Path, trained: Path, tmp_path: Path) -> None:
    words = ["--dataset", str(photos), "--labels", str(photos.parent / "labels.csv"), "--holdout", "0.25"]
    model = ["--model", f"local-dir:{trained}", "--pretrained", "--probe", "--image-size", "32"]
    with pytest.raises(ConfigError, match="`probe` needs one label an image, but the images have several"):
        train(parse_config([*words, *model, "--output-dir", str(tmp_path / "run")]))


def test_the_best_weights_are_those_with_the_highest_map(photos: Path, tmp_path: Path) -> None:
    result = small_run(tmp_path / "run", **settings(photos, keep_best=True, epochs=3))
    scores = [record["map"] for record in read_records(result.folder / "metrics.jsonl") if record["kind"] == "eval"]
    described = json.loads((result.folder / "config.json").read_text())["ssia"]
    assert described["selection"]["metric"] == "map"
    assert result.metrics["map"] == max(scores)


def test_mixup_smoothing_and_resuming_work_with_several_labels(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    mixed = settings(photos, mixup=0.2, cutmix=0.5, smoothing=0.1, epochs=2)
    whole = small_run(tmp_path / "whole", **mixed)
    plain = small_run(tmp_path / "plain", **{**mixed, "mixup": 0, "cutmix": 0, "smoothing": 0})
    assert not same_weights(whole.folder, plain.folder)
    checkpoint = min((whole.folder / "checkpoints").iterdir())
    resumed = small_run(tmp_path / "resumed", **mixed, resume=str(checkpoint))
    assert same_weights(whole.folder, resumed.folder)


def test_evaluation_alone_writes_the_metrics(trained: Path, photos: Path, tmp_path: Path) -> None:
    small_run(tmp_path / "eval", **settings(photos, model=trained, eval_only=True))
    written = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert written["images"] == 12
    assert written["map"] > 90


def test_batch_size_auto_tries_mixed_images(photos: Path, tmp_path: Path) -> None:
    mixed = settings(photos, batch_size="auto", mixup=0.2, epochs=1, max_steps=1)
    assert small_run(tmp_path / "run", **mixed).metrics["loss"] > 0
