"""Matching classes by name: when positions are used instead, and what is refused."""

from __future__ import annotations

import logging

import pytest
import timm
from timm.data import ImageNetInfo

from ssia_zoo.errors import ClassesError
from ssia_zoo.models.label_names import match_labels, match_model, only_count, read_label_names

PETS = ["cat", "dog", "bird"]


@pytest.mark.parametrize(
    ("names", "read"),
    [
        (["cat", "dog", "bird"], ("cat", "dog", "bird")),
        (("cat", "dog", "bird"), ("cat", "dog", "bird")),
        ({0: "cat", 1: "dog", 2: "bird"}, ("cat", "dog", "bird")),
        ({"2": "bird", "0": "cat", "1": "dog"}, ("cat", "dog", "bird")),
        ({"0": "cat", "2": "bird"}, ("cat", "class 1", "bird")),  # timm allows gaps
        (None, None),
        ([], None),
        ({}, None),
        (["cat", "dog"], None),
        ({"0": "cat", "7": "dog"}, None),
        ({"cat": 0, "dog": 1, "bird": 2}, None),
    ],
)
def test_names_are_read_from_a_list_and_from_timms_mapping(names: object, read: tuple[str, ...] | None) -> None:
    assert read_label_names({"label_names": names}, 3) == read


def test_classes_are_matched_by_name_whatever_their_order(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    assert match_labels(PETS, ["bird", "cat", "dog"]) == (2, 0, 1)
    assert match_labels(PETS, PETS) == (0, 1, 2)
    assert caplog.text == ""


def test_a_subset_of_the_models_classes_is_accepted_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert match_labels([f"class of {n}" for n in range(1000)], ["class of 7", "class of 3"], "mine") == (7, 3)
    assert "mine has 2 of the model's 1000 classes" in caplog.text


def test_a_class_that_the_model_lacks_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(ClassesError, match=r"mine has 1 class .*'bird_' \(did you mean bird\?\)"):
        match_labels(PETS, ["cat", "dog", "bird_"], "mine")
    with pytest.raises(ClassesError, match=r"4 classes .*; … 1 more"):
        match_labels(PETS, ["ox", "cow", "gnu", "elk"])


def test_a_class_without_images_need_not_be_the_models(caplog: pytest.LogCaptureFixture) -> None:
    assert match_labels(PETS, ["zebra", "bird", "cat", "dog"], used={1, 2, 3}) == (-1, 2, 0, 1)
    assert "'zebra'" in caplog.text
    with pytest.raises(ClassesError, match="'zebra'"):
        match_labels(PETS, ["zebra", "bird", "cat", "dog"], used={0, 1})


@pytest.mark.parametrize(
    ("model_names", "data_names", "side"),
    [
        (None, PETS, "the model"),
        (["0", "1", "2"], PETS, "the model"),
        (["class 0", "class 1", "class 2"], PETS, "the model"),
        (PETS, ["0", "1", "2"], "the data set"),
        (PETS, ["LABEL_0", "LABEL_1", "LABEL_2"], "the data set"),
        (["0", "1", "2"], ["000", "001", "002"], "the model"),
    ],
)
def test_classes_are_matched_by_position_with_a_warning_if_one_side_has_no_names(
    model_names: list[str] | None, data_names: list[str], side: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert match_labels(model_names, data_names, num_classes=3) == (0, 1, 2)
    assert len(caplog.records) == 1
    assert f"{side} has no names" in caplog.text
    with pytest.raises(ClassesError, match=side):
        match_labels(model_names, data_names, num_classes=3, by_position=False)


@pytest.mark.parametrize(
    ("model_names", "data_names"), [(None, PETS[:2]), (["0", "1", "2"], PETS[:2]), (PETS, ["0", "1"])]
)
def test_different_numbers_of_classes_are_refused_if_names_are_missing(
    model_names: list[str] | None, data_names: list[str]
) -> None:
    with pytest.raises(ClassesError, match="2 classes and the model 3"):
        match_labels(model_names, data_names, num_classes=3)


def test_numbers_that_are_names_are_matched_by_name() -> None:
    digits = [str(number) for number in range(10)]
    assert match_labels(digits, ["7", "3"]) == (7, 3)
    assert match_labels(digits, sorted(digits, reverse=True)) == tuple(range(9, -1, -1))
    with pytest.raises(ClassesError, match="'10'"):
        match_labels(digits, [str(number) for number in range(1, 11)])
    assert not only_count(["1", "2", "3"])


def test_class_folders_with_numbers_are_matched_by_name(caplog: pytest.LogCaptureFixture) -> None:
    """Folders are sorted as text, "10" before "2"; data of the same classes may be sorted by number."""
    count = [str(number) for number in range(12)]
    folders = sorted(count)
    assert match_labels(folders, count) == tuple(folders.index(name) for name in count)
    assert "matched by name" in caplog.text or not caplog.records
    with pytest.raises(ClassesError, match="the data set"):
        match_labels([*PETS, "10"], ["0", "1", "2", "3"], by_position=False)


def test_a_single_class_is_refused_as_every_image_would_count_as_correct() -> None:
    with pytest.raises(ClassesError, match=f"only one of the model's {len(PETS)} classes, {PETS[1]!r}"):
        match_labels(PETS, [PETS[1]])


def test_duplicate_names_are_refused_only_if_the_data_has_that_class() -> None:
    cranes = ["crane", "heron", "crane"]
    assert match_labels(cranes, cranes) == (0, 1, 2)
    assert match_labels([*cranes, "stork"], ["stork", "heron"]) == (3, 1)
    with pytest.raises(ClassesError, match="2 classes named 'crane'"):
        match_labels(cranes, ["heron", "crane"])


def test_descriptions_of_classes_are_names_too() -> None:
    model = timm.create_model("test_resnet", num_classes=3)
    model.pretrained_cfg |= {"label_names": ["n01", "n02", "n03"]}
    model.pretrained_cfg |= {"label_descriptions": {"n03": "bird", "n02": "dog", "n01": "cat"}}
    assert match_model(model, ["bird", "cat", "dog"], "pets") == (2, 0, 1)
    assert match_model(model, ["n03", "n01", "n02"], "pets") == (2, 0, 1)
    assert match_model(model, ["n01", "n02", "n03"], "pets") is None


def test_timms_imagenet_classifiers_know_imagenets_names(caplog: pytest.LogCaptureFixture) -> None:
    model, info = timm.create_model("test_resnet"), ImageNetInfo()
    chosen = [999, 6, 1]
    by_id = [info.index_to_label_name(index) for index in chosen]
    assert match_model(model, by_id, "ImageNet-A") == (999, 6, 1)
    assert match_model(model, [info.index_to_description(index) for index in chosen], "R") == (999, 6, 1)
    assert match_model(model, ["goldfish", "tench"], "R") == (1, 0)
    with pytest.raises(ClassesError, match=r"'goldfsh' \(did you mean goldfish"):
        match_model(model, ["goldfsh", "tench"], "R")
    caplog.clear()
    assert match_model(model, [f"sort {index}" for index in range(1000)], "other") is None
    assert "the model has no names" in caplog.text
