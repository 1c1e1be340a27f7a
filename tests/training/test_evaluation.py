"""Evaluation alone, and that it is the evaluation of a run."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from conftest import small_run

from ssia_zoo.errors import SSIAZooError


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
