"""Subsets: classes and images are kept reproducibly, and what a data set lacks is said in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest

from ssia_zoo.arena.subsets import (
    check_source,
    check_unchanged,
    load_splits,
    make_subset,
    subset_folder,
    write_sources,
)
from ssia_zoo.data import digits
from ssia_zoo.errors import DataError
from tests.arena.plans import CONTENT

SUBSET: dict[str, Any] = CONTENT["data"]["digits5"]


def test_a_subset_keeps_classes_and_shares_no_image_between_training_and_validation(tmp_path: Path) -> None:
    make_subset(digits(), SUBSET, tmp_path / "subset")
    splits = datasets.load_dataset(str(tmp_path / "subset"), cache_dir=str(tmp_path / "cache"))
    kept = {int(name) for name in splits["train"].features["label"].names}
    official = sum(label in kept for label in digits()["test"]["label"])
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 40, "validation": 20, "test": official}
    names = splits["train"].features["label"].names
    assert len(names) == 5
    for part, count in (("train", 8), ("validation", 4)):
        assert all(list(splits[part]["label"]).count(label) == count for label in range(5))
    seen = [{image["bytes"] for image in _raw(splits[part])} for part in ("train", "validation")]
    assert not seen[0] & seen[1]
    original = {image["bytes"]: label for image, label in zip(*_labelled(digits()["train"]), strict=True)}
    for image, label in zip(*_labelled(splits["train"]), strict=True):
        assert names[label] == str(original[image["bytes"]]), "a kept image keeps its class"


def _raw(rows: datasets.Dataset) -> list[dict[str, Any]]:
    return list(rows.cast_column("image", datasets.Image(decode=False))["image"])


def _labelled(rows: datasets.Dataset) -> tuple[list[dict[str, Any]], list[int]]:
    return _raw(rows), list(rows["label"])


def test_classes_may_be_chosen_with_all_of_their_images(tmp_path: Path) -> None:
    make_subset(digits(), {"dataset": "digits", "classes": 3}, tmp_path / "subset")
    written = datasets.load_dataset(str(tmp_path / "subset"), cache_dir=str(tmp_path / "cache"))
    assert set(written["train"]["label"]) == {0, 1, 2}
    kept = [int(name) for name in written["train"].features["label"].names]
    assert len(written["test"]) == sum(label in kept for label in digits()["test"]["label"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_labels": "lable"}, "no column 'lable'; did you mean label?"),
        ({"exchanged": 0.3}, "no column 'coarse'; it has image, label"),
        ({"classes": 11}, "has 10 classes; the plan asks for 11"),
        ({"train_per_class": 200}, "training images; the plan asks for 204, train_per_class and validation_per_class"),
    ],
)
def test_what_a_data_set_lacks_is_said_in_one_line(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        make_subset(digits(), {**SUBSET, **change}, tmp_path / "subset")
    assert message in str(caught.value)
    assert not (tmp_path / "subset").exists()


def test_labels_of_classes_that_are_left_out_are_refused(tmp_path: Path) -> None:
    splits = datasets.DatasetDict(
        {name: rows.add_column("noisy", [9 - label for label in rows["label"]]) for name, rows in digits().items()}
    )
    with pytest.raises(DataError, match="images of the 3 classes have labels of others in train_labels, such as"):
        make_subset(splits, {"dataset": "digits", "classes": 3, "train_labels": "noisy"}, tmp_path / "subset")


def test_a_subset_of_files_that_have_changed_is_refused(tmp_path: Path) -> None:
    source, folder = tmp_path / "root" / "toy" / "train.parquet", tmp_path / "data" / "toy_1"
    for path in (source.parent, folder):
        path.mkdir(parents=True)
    source.write_text("a")
    check_unchanged("toy", tmp_path / "root", folder)  # of an older version
    write_sources("toy", tmp_path / "root", folder)
    check_unchanged("toy", tmp_path / "root", folder)
    source.write_text("ab")
    with pytest.raises(DataError, match="toy_1 was made from other files than dataset 'toy' has now"):
        check_unchanged("toy", tmp_path / "root", folder)
    with pytest.raises(DataError, match="was made from other files"):
        check_unchanged("toy", tmp_path, folder)


def test_a_data_set_is_a_folder_of_the_root_the_digits_or_a_hub_id(tmp_path: Path) -> None:
    (tmp_path / "cifar10").mkdir()
    for name, root in (("cifar10", tmp_path), ("digits", None), ("uoft-cs/cifar10", None)):
        check_source(name, root)
    with pytest.raises(DataError, match=r"'cifar' is not a folder in .*; did you mean cifar10"):
        check_source("cifar", tmp_path)
    with pytest.raises(DataError, match="neither digits nor a Hub id"):
        check_source("cifar10", None)
    with pytest.raises(DataError, match=r"`data_root` .* is not a folder"):
        check_source("cifar10", tmp_path / "none")


def test_a_folder_in_the_root_comes_before_the_digits(tmp_path: Path) -> None:
    for name, rows in digits().items():
        rows.select(range(20)).to_parquet(str(tmp_path / "digits" / f"{name}.parquet"))
    assert len(load_splits("digits", tmp_path)["train"]) == 20
    assert len(load_splits("digits", None)["train"]) == 1437


def test_subsets_have_folders_of_their_own(tmp_path: Path) -> None:
    chosen = [SUBSET, {**SUBSET, "classes": 4}, {"dataset": "org/name"}]
    folders = {subset_folder(subset, tmp_path) for subset in chosen}
    assert len(folders) == 3
    assert all(folder.parent == tmp_path for folder in folders)
