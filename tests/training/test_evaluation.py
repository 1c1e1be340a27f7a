"""`eval_only` gives what the evaluation of a run gives."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssia_zoo.data import DataConfig
from ssia_zoo.errors import SSIAZooError
from ssia_zoo.evaluation.validate import validate
from ssia_zoo.models.loading import load_model
from tests.helpers.runs import small_run


@pytest.mark.covers("eval_only", "output_dir", "model")
def test_evaluation_alone_gives_what_the_run_reported_and_writes_metrics_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained = small_run(tmp_path / "run", max_steps=2, epochs=1, crop_pct=0.9)
    caplog.set_level(logging.INFO)
    result = small_run(tmp_path / "alone", model=f"local-dir:{trained.folder}", eval_only=True)
    assert [path.name for path in (tmp_path / "alone").iterdir()] == ["metrics.json"]
    written = json.loads((tmp_path / "alone" / "metrics.json").read_text())
    assert written == {**result.metrics, "images": 40}
    assert result.metrics == pytest.approx(trained.metrics)
    assert f"top-1 {result.metrics['top1']:.2f} %" in caplog.text


def test_evaluation_alone_takes_published_weights_by_name(tmp_path: Path) -> None:
    result = small_run(tmp_path / "alone", model="mobilenetv3_small_050_ssia.digits_r32", eval_only=True)
    assert result.metrics["top1"] > 90


@pytest.mark.covers("image_size", "dataset")
def test_evaluation_alone_is_of_the_size_and_the_data_asked_for(tmp_path: Path) -> None:
    model = "mobilenetv3_small_050_ssia.digits_r32"
    losses = {
        small_run(tmp_path / str(size), model=model, eval_only=True, image_size=size).metrics["loss"]
        for size in (32, 48)
    }
    assert len(losses) == 2


@pytest.mark.parametrize(
    ("model", "message"), [("test_resnet.r160_in1k", "offline|Hub|cache"), ("local-dir:nowhere", "no folder")]
)
def test_evaluation_of_weights_that_are_not_there_is_one_line_and_leaves_nothing(
    tmp_path: Path, model: str, message: str
) -> None:
    with pytest.raises(SSIAZooError, match=message) as caught:
        small_run(tmp_path / "alone", model=model, eval_only=True)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "alone").exists()


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """Noise of 110 x 50 pixels, whose loss depends on how it is resized and cropped."""
    numbers = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for name in ("a", "b"):
            folder = tmp_path / "wide" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = numbers.integers(0, 256, (50, 110, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "wide"


@pytest.mark.covers("interpolation", "crop_pct", "crop_mode")
@pytest.mark.parametrize(
    "setting", [{"crop_mode": "squash"}, {"crop_mode": "border"}, {"crop_pct": 0.7}, {"interpolation": "nearest"}]
)
def test_a_run_evaluates_with_the_preprocessing_that_it_saves(
    tmp_path: Path, wide: Path, setting: dict[str, Any], datasets_cache: None
) -> None:
    of_data: dict[str, Any] = {"dataset": wide, "max_train_images": 16, "max_eval_images": 8, "batch_size": 8}
    trained = small_run(tmp_path / "run", epochs=4, warmup_epochs=0, lr=0.01, **of_data, **setting)
    cfg = json.loads((trained.folder / "config.json").read_text())["pretrained_cfg"]
    assert {name: cfg[name] for name in setting} == setting
    model, data = load_model(str(trained.folder)), DataConfig(str(wide), workers=0, batch_size=8)
    assert validate(model, data)["loss"] == pytest.approx(trained.metrics["loss"], rel=1e-5)
    default = {"crop_mode": "center", "crop_pct": 1.0, "interpolation": "bicubic"}
    other = validate(model, DataConfig(str(wide), workers=0, batch_size=8, **default))
    assert other["loss"] != pytest.approx(trained.metrics["loss"], rel=1e-3)


def test_evaluation_alone_takes_the_models_preprocessing_unless_a_flag_says_otherwise(
    tmp_path: Path, wide: Path, datasets_cache: None
) -> None:
    of_data: dict[str, Any] = {"dataset": wide, "max_train_images": 16, "max_eval_images": 8, "batch_size": 8}
    trained = small_run(tmp_path / "run", epochs=1, crop_mode="squash", crop_pct=0.8, **of_data)
    alone: dict[str, Any] = {"model": f"local-dir:{trained.folder}", "eval_only": True, **of_data}
    own = small_run(tmp_path / "own", **alone).metrics
    assert own["loss"] == pytest.approx(trained.metrics["loss"], rel=1e-5)
    assert small_run(tmp_path / "given", **alone, crop_mode="center").metrics["loss"] != pytest.approx(own["loss"])


def test_a_fine_tuned_head_begins_where_the_base_model_ended(
    tmp_path: Path, wide: Path, caplog: pytest.LogCaptureFixture, datasets_cache: None
) -> None:
    caplog.set_level(logging.INFO, "ssia_zoo")
    of_data: dict[str, Any] = {"dataset": wide, "max_train_images": 16, "max_eval_images": 8, "batch_size": 8}
    base = small_run(tmp_path / "base", epochs=2, lr=0.01, **of_data)
    config = json.loads((base.folder / "config.json").read_text())
    config["label_names"] = ["b", "a"]  # swaps the classes of its outputs
    (base.folder / "config.json").write_text(json.dumps(config))
    still: dict[str, Any] = {"model": f"local-dir:{base.folder}", "pretrained": True, "max_steps": 1, "lr": 1e-12}
    tuned = small_run(tmp_path / "tuned", **still, **of_data)
    assert "its 2 classes matched by name (in another order)" in caplog.text
    before = validate(load_model(str(base.folder)), DataConfig(str(wide), workers=0, batch_size=8))
    assert tuned.metrics["top1"] == before["top1"]
    assert tuned.metrics["top1"] == 100 - base.metrics["top1"]
