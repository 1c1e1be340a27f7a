"""Validation: classes matched by name, subsets of a model's classes, and data without a training split."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import timm
from PIL import Image

from ssia_zoo.data import DataConfig
from ssia_zoo.errors import ClassesError
from ssia_zoo.evaluation.validate import validate
from tests.helpers.colours import COLOURS, NAMES, Colour, stored
from tests.helpers.data_folders import IMAGE, rows


@pytest.mark.parametrize("names", [NAMES, NAMES[::-1], ["blue", "red", "green"]])
@pytest.mark.parametrize("label_names", [NAMES, {"0": "red", "1": "green", "2": "blue"}], ids=["list", "mapping"])
def test_the_order_of_classes_does_not_matter(tmp_path: Path, names: list[str], label_names: Any) -> None:
    result = validate(Colour(label_names), stored(tmp_path / "data", names, NAMES))
    assert (result["top1"], result["images"]) == (100, 6)
    assert result["loss"] == pytest.approx(-np.log(np.e / (np.e + 2)), rel=1e-5)


def test_for_a_subset_of_classes_other_outputs_are_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = Colour([*NAMES, "ever", "always"], extra=2)
    result = validate(model, stored(tmp_path / "data", ["blue", "red"], ["blue", "red"]))
    assert result["top1"] == 100
    assert result["loss"] == pytest.approx(-np.log(np.e / (np.e + 1)), rel=1e-5)
    assert "2 of the model's 5 classes" in caplog.text
    everything = validate(model, stored(tmp_path / "all", [*NAMES, "always", "ever"], NAMES))
    assert everything["top1"] == 0


def test_a_class_without_images_may_be_missing_in_the_model(tmp_path: Path) -> None:
    result = validate(Colour(NAMES), stored(tmp_path / "data", ["zebra", *NAMES[::-1]], NAMES))
    assert result["top1"] == 100
    assert np.isfinite(result["loss"])


def test_unknown_classes_are_refused_with_suggestions(tmp_path: Path) -> None:
    with pytest.raises(ClassesError, match=r"'green' \(did you mean greens, "):
        validate(Colour(["red", "greens", "blue"]), stored(tmp_path / "data", NAMES, NAMES))


def test_classes_are_matched_by_position_with_a_warning_if_the_model_has_no_names(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert validate(Colour(None), stored(tmp_path / "data", NAMES, NAMES))["top1"] == 100
    assert "the model has no names for its classes; matched by position: output 0 is 'red'" in caplog.text
    with pytest.raises(ClassesError, match="2 classes and the model 3"):
        validate(Colour(None), stored(tmp_path / "part", NAMES[:2], NAMES[:2]))


def test_no_training_split_is_needed(tmp_path: Path) -> None:
    config = stored(tmp_path / "data", NAMES[::-1], NAMES, splits=("test",))
    assert validate(Colour(NAMES), config)["top1"] == 100
    for name in NAMES:
        (tmp_path / "folder" / "test" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), COLOURS[name]).save(tmp_path / "folder" / "test" / name / "0.png")
    config = replace(config, dataset=str(tmp_path / "folder"))
    assert validate(Colour(["green", "blue", "red"]), config)["top1"] == 0  # the names come from the folders
    assert validate(Colour(NAMES), config)["top1"] == 100
    shutil.rmtree(tmp_path / "folder" / "test" / "green")
    assert validate(Colour(NAMES), config)["top1"] == 100
    assert json.dumps(validate(Colour(NAMES), config))


def test_an_imagenet_model_is_evaluated_on_a_subset_of_imagenet(tmp_path: Path) -> None:
    names = ["n02123045", "n01443537"]  # a cat, a goldfish
    part = rows(
        {"image": [Image.new("RGB", (8, 8))] * 2, "label": [0, 1]}, image=IMAGE, label=datasets.ClassLabel(names=names)
    )
    (tmp_path / "a").mkdir()
    part.to_parquet(tmp_path / "a" / "test.parquet")
    result = validate(timm.create_model("test_resnet"), DataConfig(str(tmp_path / "a"), workers=0, batch_size=2))
    assert result["top1"] == 50
    assert result["top5"] == 100
