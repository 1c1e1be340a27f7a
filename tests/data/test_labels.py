"""Convert labels of any type to class labels with the same names in all splits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest

from ssia_zoo.data import (
    DataConfig,
    load_image_data,
)
from tests.helpers.data_folders import (
    INT,
    error_text,
    image_folder,
    labelled,
    parquet,
)

pytestmark = pytest.mark.usefixtures("datasets_cache")


@pytest.mark.parametrize(
    ("feature", "train_labels", "test_labels", "names"),
    [
        ("string", ["z", "b", "m"], ["b", "m"], ("b", "m", "z")),
        ("int64", [0, 3], [3, 0], ("0", "1", "2", "3")),
        ("bool", [True, False], [True], ("0", "1")),
    ],
)
def test_strings_and_integers_become_class_labels_with_the_same_names_in_both_splits(
    tmp_path: Path, feature: str, train_labels: list[Any], test_labels: list[Any], names: tuple[str, ...]
) -> None:
    value = datasets.Value(feature)
    config = parquet(tmp_path / "d", train=labelled(train_labels, value), test=labelled(test_labels, value))
    found = load_image_data(config)
    assert found.label_names == names
    assert found.eval.features["label"].names == list(names)
    read = [names[label] for label in found.train["label"]]
    assert read == [str(int(x)) if feature != "string" else x for x in train_labels]


@pytest.mark.parametrize(
    ("train_rows", "test_rows", "message"),
    [
        (labelled([0, 1]), labelled([0, 1, -1]), "row 2 of 'test' has the label -1; expected 0 to 1"),
        (labelled([0, None, 1], INT), labelled([0], INT), "row 1 of 'train' has no label"),
        (labelled([-1, -1], INT), labelled([-1], INT), "row 0 of 'train' has the label -1; expected 0 or more"),
        (labelled([1, 1]), labelled([0, 1]), "all training images are of one class, 'b'"),
        (
            labelled([0.5, 1.5], datasets.Value("float32")),
            labelled([0.5], datasets.Value("float32")),
            "has the type float32",
        ),
        (labelled([0, 1]), labelled([]), "no data"),
    ],
)
def test_invalid_labels_are_refused(
    tmp_path: Path, train_rows: datasets.Dataset, test_rows: datasets.Dataset, message: str
) -> None:
    assert message in error_text(parquet(tmp_path / "d", train=train_rows, test=test_rows))


def test_an_empty_split_and_other_classes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = labelled([0, 1], datasets.ClassLabel(names=["b", "c"]))
    config = parquet(tmp_path / "d", train=labelled([0, 1]), test=other)
    assert "'test' has images of 1 class: c, in 'label'; 'train' has only 2 classes: a, b" in error_text(config)
    monkeypatch.setattr("ssia_zoo.data.sources.DigitsSource.load", lambda *_, **__: labelled([]))
    assert "the split 'train' of 'digits' is empty" in error_text(DataConfig("digits"))


def test_class_names_in_another_order_are_the_same_classes(tmp_path: Path) -> None:
    other = labelled([0, 1, 1], datasets.ClassLabel(names=["b", "a"]))
    found = load_image_data(parquet(tmp_path / "d", train=labelled([0, 1]), test=other))
    assert found.label_names == ("a", "b")
    assert found.eval["label"] == [1, 0, 0]
    assert found.eval.features["label"].names == ["a", "b"]


def test_a_class_that_is_evaluated_but_not_trained_on_is_refused(tmp_path: Path) -> None:
    config = image_folder(tmp_path / "d", train={"cat": 1, "dog": 1}, test={"cat": 1, "dogs": 1})
    assert "'test' has images of 1 class: dogs, in 'label'; 'train' has only 2 classes: cat, dog" in error_text(config)
    config = image_folder(tmp_path / "e", train={"cat": 1, "dog": 1, "cow": 1}, test={"cat": 1, "dog": 1})
    assert load_image_data(config).label_names == ("cat", "cow", "dog")


@pytest.mark.covers("num_classes")
def test_a_number_of_classes_that_contradicts_the_labels_is_refused(tmp_path: Path) -> None:
    config = parquet(tmp_path / "d", train=labelled([0, 1]), test=labelled([0, 1]))
    assert "`num_classes` is 3, but the column 'label' has 2 classes" in error_text(replace(config, num_classes=3))
    numbers = parquet(tmp_path / "n", train=labelled([0, 2], INT), test=labelled([0], INT))
    assert "row 1 of 'train' has the label 2; expected 0 to 1" in error_text(replace(numbers, num_classes=2))
    assert load_image_data(replace(numbers, num_classes=5)).label_names == ("0", "1", "2", "3", "4")


def test_integers_that_leave_classes_empty_give_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_image_data(parquet(tmp_path / "d", train=labelled([0, 7, 255], INT), test=labelled([0], INT)))
    assert "make 256 classes, 0 to 255, but 253 of them have no image" in caplog.text
    caplog.clear()
    load_image_data(parquet(tmp_path / "e", train=labelled([0, 1, 2], INT), test=labelled([0], INT)))
    assert "have no image" not in caplog.text


def test_a_class_without_an_image_to_train_on_is_refused(tmp_path: Path) -> None:
    config = parquet(
        tmp_path / "d",
        train=labelled(["a", "b"], datasets.Value("string")),
        test=labelled(["a", "c"], datasets.Value("string")),
    )
    assert "'test' has images of 1 class: c, but 'train' has none; use splits with the same classes" in error_text(
        config
    )
