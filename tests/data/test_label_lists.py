"""Images with several labels: named classes, targets, held out parts, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

from ssia_zoo.data import DataConfig, data_identity, eval_loader, load_image_data, train_loader
from ssia_zoo.data.labels import read_labels
from ssia_zoo.data.streaming import ImageStream
from tests.helpers.data_folders import (
    IMAGE,
    INT,
    MEAN,
    STD,
    error_text,
    finished,
    labelled,
    parquet,
    pictures,
    plain,
    rows,
)
from tests.helpers.spreadsheets import NAMES, labelled_photos, table

pytestmark = pytest.mark.usefixtures("datasets_cache")

ABC = datasets.List(datasets.ClassLabel(names=["a", "b", "c"]))
STRINGS = datasets.List(datasets.Value("string"))
STRING = datasets.Value("string")


def lists(labels: list[Any], feature: Any = ABC) -> datasets.Dataset:
    return labelled(labels, feature)


@pytest.mark.parametrize(
    ("feature", "train", "test", "names"),
    [
        (ABC, [[0, 2], [1], []], [[2, 0]], ("a", "b", "c")),
        (STRINGS, [["x", "z"], ["y"], []], [["z", "x"]], ("x", "y", "z")),
        (datasets.List(INT), [[0, 2], [1], []], [[2, 0]], ("0", "1", "2")),
        (datasets.LargeList(INT), [[0, 2], [1], []], [[2, 0, 2]], ("0", "1", "2")),
    ],
)
def test_lists_of_names_and_numbers_become_lists_of_class_labels(
    tmp_path: Path, feature: Any, train: list[Any], test: list[Any], names: tuple[str, ...]
) -> None:
    found = load_image_data(parquet(tmp_path / "d", train=lists(train, feature), test=lists(test, feature)))
    assert not isinstance(found.train, ImageStream)
    assert (found.multi_label, found.label_names) == (True, names)
    assert read_labels(found.train, "label") == [[0, 2], [1], []]
    assert read_labels(found.eval, "label") == [[0, 2]]


def test_names_in_another_order_are_the_same_classes(tmp_path: Path) -> None:
    other = datasets.List(datasets.ClassLabel(names=["c", "b", "a"]))
    found = load_image_data(parquet(tmp_path / "d", train=lists([[0, 2], [1]]), test=lists([[0, 1]], other)))
    assert read_labels(found.eval, "label") == [[1, 2]]


@pytest.mark.covers("label_separator")
def test_strings_are_split_by_a_given_separator(tmp_path: Path) -> None:
    config = parquet(tmp_path / "d", train=labelled(["a;b", "c", ""], STRING), test=labelled(["b; a"], STRING))
    found = load_image_data(replace(config, label_separator=";"))
    assert (found.label_names, read_labels(found.eval, "label")) == (("a", "b", "c"), [[0, 1]])
    numbers = parquet(tmp_path / "e", train=labelled([0, 1]), test=labelled([0, 1]))
    message = error_text(replace(numbers, label_separator=";"))
    assert "`label_separator` is ';', but the column 'label' has the type ClassLabel; expected strings" in message


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (lists([[0], None, [1]]), lists([[0]]), "row 1 of 'train' has no label; label it or remove it"),
        (lists([[0, 1], [-1]]), lists([[0]]), "row 1 of 'train' has the label -1; label or remove it"),
        (lists([[0, None], [1]]), lists([[0]]), "row 0 of 'train' has the label None; label or remove it"),
        (
            lists([[0, 1, 0], [1, 1, 0]], datasets.List(INT)),
            lists([[0, 1, 1]], datasets.List(INT)),
            "row 0 of 'train' holds 0 and 1 for each class in 'label'; expected the numbers or names",
        ),
        (
            lists([[1, 0], [0, 1], [1, 0]], datasets.List(INT)),
            lists([[0, 1], [1, 0]], datasets.List(INT)),
            "row 0 of 'train' holds 0 and 1 for each class in 'label'; expected the numbers or names",
        ),
        (lists([[0, 1], [1]]), lists([[2]]), "'test' has images of 1 class: c, but 'train' has none"),
        (lists([[0], [0]]), lists([[0]]), "all training images are of one class, 'a'; at least two are needed"),
        (lists([[0], [1]]), labelled([0]), "holds lists of labels in one of the splits only; use the same form"),
        (
            lists([[0.5]], datasets.List(datasets.Value("float32"))),
            lists([[0.5]], datasets.List(datasets.Value("float32"))),
            "has the type float32",
        ),
    ],
)
def test_labels_that_cannot_be_used_are_refused(
    tmp_path: Path, train: datasets.Dataset, test: datasets.Dataset, message: str
) -> None:
    assert message in error_text(parquet(tmp_path / "d", train=train, test=test))


def test_lists_are_not_streamed(tmp_path: Path) -> None:
    config = parquet(tmp_path / "d", train=lists([[0], [1]]), test=lists([[0]]))
    assert "images with several labels cannot be streamed" in error_text(replace(config, streaming=True))


def test_targets_are_0_or_1_for_each_class(tmp_path: Path) -> None:
    config = parquet(tmp_path / "d", train=lists([[0, 2], []]), test=lists([[2], [0, 2], []]))
    found = load_image_data(config)
    _, targets, indices = next(iter(train_loader(found, config, mean=MEAN, std=STD, seed=0)))
    assert targets[indices.argsort()].tolist() == [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    read = torch.cat([targets for _, targets in eval_loader(found, config, mean=MEAN, std=STD)])
    assert read.tolist() == [[0.0, 0.0, 1.0], [1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]


def test_cached_images_have_the_same_targets(tmp_path: Path) -> None:
    config = parquet(tmp_path / "d", train=lists([[0, 2], [], [1]]), test=lists([[2]]))
    config = replace(config, crop_padding=2, batch_size=3)
    found = load_image_data(config)
    batches = [
        finished(next(iter(train_loader(found, replace(config, cache_images=cached), mean=MEAN, std=STD, seed=0))))
        for cached in (False, True)
    ]
    assert all(torch.equal(one, other) for one, other in zip(*batches, strict=True))


def test_an_unreadable_evaluation_image_is_marked_in_each_class(tmp_path: Path) -> None:
    spoiled = rows({"image": [plain(0), b"no image"], "label": [[0], [1]]}, image=IMAGE, label=ABC)
    config = replace(parquet(tmp_path / "d", train=lists([[0], [1]]), test=spoiled), max_corrupt=0.9)
    found = load_image_data(config)
    (_, targets), *_ = eval_loader(found, config, mean=MEAN, std=STD)
    assert targets.tolist() == [[1.0, 0.0, 0.0], [-1.0, -1.0, -1.0]]


def test_a_holdout_and_a_limit_leave_each_class_a_training_image(tmp_path: Path) -> None:
    labels = [[0]] * 6 + [[0, 1]] * 5 + [[2, 0]]
    train = rows({"image": pictures(12), "label": labels}, image=IMAGE, label=ABC)
    config = replace(parquet(tmp_path / "d", train=train), holdout=0.5)
    for settings in (config, replace(config, max_train_images=3)):
        found = load_image_data(settings)
        assert not isinstance(found.train, ImageStream)
        assert {number for row in read_labels(found.train, "label") for number in row} == {0, 1, 2}
        assert len(found.train) == (settings.max_train_images or 6)
    assert "leaves some of 3 classes without an image" in error_text(replace(config, max_train_images=2))


def test_the_identity_of_the_data_covers_lists(tmp_path: Path) -> None:
    def identity(name: str, labels: list[list[int]]) -> Any:
        return data_identity(load_image_data(parquet(tmp_path / name, train=lists(labels), test=lists([[0]]))))

    first = identity("a", [[0, 1], [2]])
    assert identity("b", [[1, 0], [2]]) == first
    assert identity("c", [[0, 1], [1, 2]])["train_digest"] != first["train_digest"]


def test_a_file_of_labels_has_several_in_a_cell_or_columns(tmp_path: Path) -> None:
    cells = ["cat;dog", "cow", "", "dog"] * 3
    found = load_image_data(labelled_photos(tmp_path, table({"path": NAMES, "label": cells})))
    assert (found.multi_label, found.label_names, found.label_column) == (True, ("cat", "cow", "dog"), "label")
    columns = {"path": NAMES, "cat": list("101" * 4), "dog": list("110" * 4)}
    found = load_image_data(labelled_photos(tmp_path, table(columns)))
    assert (found.multi_label, found.label_names, found.label_column) == (True, ("cat", "dog"), "labels")
    config = labelled_photos(tmp_path, table(columns), label_column="dog,cat")
    assert load_image_data(config).label_names == ("dog", "cat")


def test_single_labels_stay_integers(tmp_path: Path) -> None:
    config: DataConfig = parquet(tmp_path / "d", train=labelled([0, 1]), test=labelled([0, 1]))
    found = load_image_data(config)
    assert not found.multi_label
    assert next(iter(train_loader(found, config, mean=MEAN, std=STD, seed=0)))[1].dtype == torch.int64
