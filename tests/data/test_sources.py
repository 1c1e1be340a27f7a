"""Open data sets by name: the digits, folders, Hub ids."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ssia_zoo.data import (
    DataConfig,
    digits,
    load_image_data,
    train_loader,
)
from tests.helpers.data_folders import (
    MEAN,
    STD,
    error_text,
    image_folder,
    labelled,
    parquet,
    shards,
)

pytestmark = pytest.mark.usefixtures("datasets_cache")


def test_a_folder_called_digits_gives_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    load_image_data(DataConfig("digits"))
    assert "./digits" not in caplog.text
    (tmp_path / "digits").mkdir()
    assert len(load_image_data(DataConfig("digits")).eval) == 360
    assert "for the folder of that name here, use ./digits" in caplog.text


def test_digits_are_grey_8x8_in_a_fixed_stratified_split() -> None:
    first, again = digits(), digits()
    assert {name: len(split) for name, split in first.items()} == {"train": 1437, "test": 360}
    assert first["train"][0]["image"].size == (8, 8)
    assert first["train"][0]["image"].mode == "L"
    assert first["train"].features["label"].names == [str(digit) for digit in range(10)]
    assert max(np.asarray(image).max() for image in first["train"][:50]["image"]) == 255
    assert set(np.bincount(first["test"]["label"])) <= {34, 35, 36, 37}
    assert all(first[name][:]["label"] == again[name][:]["label"] for name in first)
    assert np.array_equal(np.asarray(first["test"][7]["image"]), np.asarray(again["test"][7]["image"]))


def test_a_parquet_folder_is_found_with_its_splits_columns_and_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet(tmp_path / "here", train=labelled([0, 1, 1]), valid=labelled([1, 0]), test=labelled([0]))
    monkeypatch.chdir(tmp_path)
    found = load_image_data(DataConfig("here"))
    assert (len(found.train), len(found.eval), found.eval_name) == (3, 2, "validation")
    assert (found.image_column, found.label_column, found.label_names) == ("image", "label", ("a", "b"))


@pytest.mark.covers("dataset")
def test_an_image_folder_is_found_with_a_class_for_each_folder(tmp_path: Path) -> None:
    config = image_folder(tmp_path / "pets", train={"cat": 2, "dog": 2}, test={"cat": 2, "dog": 2})
    found = load_image_data(config)
    assert (len(found.train), len(found.eval), found.eval_name) == (4, 4, "test")
    assert found.label_names == ("cat", "dog")
    assert next(iter(train_loader(found, config, mean=MEAN, std=STD, seed=3)))[0].shape == (2, 8, 8, 3)


def test_webdataset_shards_are_found_with_labels_from_cls_or_json(tmp_path: Path) -> None:
    for label, column in (("cls", "cls"), ("json", "json.label")):
        config = shards(tmp_path / label, label, train=[[0, 1, 2], [3]], test=[[4, 5]])
        found = load_image_data(config)
        assert (len(found.train), len(found.eval), found.eval_name) == (4, 2, "test")
        assert (found.image_column, found.label_column, found.label_names) == ("png", column, ("0", "1"))
        assert found.train[column] == [0, 1, 0, 1]
    assert "`label_column` is 'json'" not in error_text(replace(config, label_column="json.width"))


def test_a_data_set_that_cannot_be_loaded_is_a_one_line_error(tmp_path: Path) -> None:
    assert "does not exist; give an existing folder" in error_text(DataConfig("./nowhere"))
    assert "does not exist" in error_text(DataConfig(str(tmp_path / "nowhere")))
    assert "check the id and the network" in error_text(DataConfig("nobody/nothing"))
    (tmp_path / "file.parquet").touch()
    assert "is a file; give its folder" in error_text(DataConfig(str(tmp_path / "file.parquet")))
    (tmp_path / "empty").mkdir()
    assert "check the files in this folder" in error_text(DataConfig(str(tmp_path / "empty")))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "train-00000-of-00001.parquet").write_bytes(b"not parquet")
    assert "check the files in this folder" in error_text(DataConfig(str(tmp_path / "broken")))
