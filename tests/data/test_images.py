"""Load the training and evaluation images: holdout, limits and log."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest

from ssia_zoo.data import (
    DataConfig,
    load_image_data,
)
from ssia_zoo.data.images import _hold_out
from ssia_zoo.data.splits import subset
from tests.helpers.data_folders import (
    error_text,
    labelled,
    numbered,
    parquet,
    pictures,
)

pytestmark = pytest.mark.usefixtures("datasets_cache")


@pytest.mark.covers("holdout")
def test_a_holdout_is_stratified_fixed_and_disjoint_from_the_training_images() -> None:
    config = DataConfig("digits", holdout=0.1)
    found, again = load_image_data(config), load_image_data(config)
    assert (len(found.train), len(found.eval), found.eval_name) == (1293, 144, "holdout 10% of train")
    assert set(np.bincount(found.eval["label"])) <= {14, 15}
    assert found.eval["label"][:] == again.eval["label"][:]
    stored = datasets.Image(decode=False)
    seen = {row["image"]["bytes"] for row in found.train.cast_column("image", stored)}
    assert not seen & {row["image"]["bytes"] for row in found.eval.cast_column("image", stored)}


@pytest.mark.covers("max_train_images", "max_eval_images")
def test_a_limit_always_chooses_the_same_images() -> None:
    config = DataConfig("digits", max_train_images=44, max_eval_images=20)
    data = load_image_data(config)
    assert (len(data.train), len(data.eval)) == (44, 20)
    assert len(set(data.train["label"])) == 10
    assert load_image_data(config).train["label"][:] == data.train["label"][:]


def test_images_without_class_folders_are_an_error(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / "d" / split).mkdir(parents=True)
        pictures(1)[0].save(tmp_path / "d" / split / "0.png")
    message = error_text(DataConfig(str(tmp_path / "d")))
    assert "has 1 images but no classes; expected at least two, such as one subfolder per class" in message


def test_a_holdout_leaves_each_class_an_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counts = {"a": 1, "b": 1, "c": 1, "d": 1, "k": 6, "l": 6}
    for name, count in counts.items():
        (tmp_path / name).mkdir()
        for number in range(count):
            (tmp_path / name / f"{number}.png").write_bytes(f"{name}{number}".encode())
    data = load_image_data(DataConfig(str(tmp_path), holdout=0.5))
    assert (len(data.train), len(data.eval)) == (8, 8)
    assert set(data.train["label"]) == set(range(6))
    assert "4 of 6 classes have too few images for `holdout` 0.5 and are not evaluated: a, b, c, …" in caplog.text
    limited = load_image_data(DataConfig(str(tmp_path), holdout=0.5, max_train_images=6))
    assert sorted(limited.train["label"]) == list(range(6))
    message = error_text(DataConfig(str(tmp_path), holdout=0.5, max_train_images=5))
    assert message == "`max_train_images` is 5, which leaves some of 6 classes without an image; give at least 6"


def test_a_limit_leaves_each_class_an_image(tmp_path: Path) -> None:
    labels = [0] * 30 + [1]
    rows = labelled(labels)
    assert Counter(subset(rows, 2, labels)["label"]) == {0: 1, 1: 1}
    assert len(_hold_out(rows, 0.5, "label", ["a", "b"])[0]) == 15
    config = parquet(tmp_path / "d", train=labelled([0, 0, 1, 1]), test=labelled([0, 1]))
    assert set(load_image_data(replace(config, max_train_images=2)).train["label"]) == {0, 1}


def test_what_is_logged_of_data_files_is_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = parquet(tmp_path / "d", train=numbered(0, 4), validation=numbered(4, 2), test=numbered(6, 2))
    with caplog.at_level(logging.INFO, "ssia_zoo"):
        load_image_data(config)
    assert caplog.messages == [
        f"{config.dataset}: 4 images of train, 2 images of validation, 2 classes (not used: test)"
    ]
