"""Images of the same bytes in training and evaluation, classes that keep an image, and the identity of the images."""

from __future__ import annotations

import logging
import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssia_zoo.data import DataConfig, data_identity, load_image_data
from ssia_zoo.data.images import _hold_out
from ssia_zoo.data.splits import keep_one_of_each, stratified, subset
from tests.helpers.data_folders import error_text, image_folder, labelled, numbered, parquet

pytestmark = pytest.mark.usefixtures("datasets_cache")


def warnings(config: DataConfig, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING, "ssia_zoo"):
        load_image_data(config)
    return [message for message in caplog.messages if "byte for byte" in message]


def test_images_in_both_splits_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = parquet(tmp_path / "d", train=numbered(0, 6), test=numbered(4, 6))
    (said,) = warnings(config, caplog)
    assert said.startswith("2 of 6 images of 'test' equal a training image byte for byte, such as row 0")
    assert warnings(parquet(tmp_path / "e", train=numbered(0, 6), test=numbered(6, 6)), caplog) == []


def test_files_of_equal_size_are_compared_to_their_last_byte(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = image_folder(tmp_path, train={"a": 1, "b": 1}, test={"a": 1, "b": 1})
    content = bytearray(os.urandom(50_000))
    for place, byte in (("train/a", 0), ("train/b", 1), ("test/a", 0), ("test/b", 2)):
        content[25_000] = byte
        (tmp_path / place / "0.png").write_bytes(content)
    (said,) = warnings(config, caplog)
    assert said.startswith(f"1 of 2 images of 'test' equal a training image byte for byte, such as {tmp_path}/test/a/0")


def test_a_holdout_is_looked_at_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = parquet(tmp_path / "d", train=[numbered(0, 6), numbered(0, 6)])
    (said,) = warnings(replace(config, holdout=0.25), caplog)
    assert "of 3 images of 'holdout 25% of train'" in said


@pytest.mark.covers("check_duplicates")
def test_many_images_are_looked_at_where_that_is_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = parquet(tmp_path / "d", train=numbered(0, 6), test=numbered(4, 6))
    monkeypatch.setattr("ssia_zoo.data.images.ALWAYS_COMPARED", 11)
    assert warnings(config, caplog) == []
    with caplog.at_level(logging.INFO, "ssia_zoo"):
        load_image_data(config)
    assert "12 images are not compared between the splits; set `check_duplicates`" in caplog.text
    assert len(warnings(replace(config, check_duplicates=True), caplog)) == 1
    monkeypatch.setattr("ssia_zoo.data.images.ALWAYS_COMPARED", 12)
    assert len(warnings(config, caplog)) == 1


# -- each class keeps an image to train on


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
    says = error_text(DataConfig(str(tmp_path), holdout=0.5, max_train_images=5))
    assert says == "`max_train_images` is 5, which leaves some of 6 classes without an image; give at least 6"


@given(st.lists(st.integers(0, 8), min_size=2, max_size=60), st.floats(0.05, 0.95))
def test_classes_keep_an_image_and_the_number_stays_if_it_can(labels: list[int], fraction: float) -> None:
    held = stratified(labels, round(len(labels) * fraction))
    kept = keep_one_of_each(labels, ~held)
    assert {labels[row] for row in np.flatnonzero(kept)} == set(labels)
    assert kept.sum() == max((~held).sum(), len(set(labels)))
    if {labels[row] for row in np.flatnonzero(~held)} == set(labels):
        assert (kept == ~held).all()


def test_classes_that_only_a_limit_takes_away_are_noticed(tmp_path: Path) -> None:
    labels = [0] * 30 + [1]
    rows = labelled(labels)
    assert Counter(subset(rows, 2, labels)["label"]) == {0: 1, 1: 1}
    assert len(_hold_out(rows, 0.5, "label", ["a", "b"])[0]) == 15
    config = parquet(tmp_path / "d", train=labelled([0, 0, 1, 1]), test=labelled([0, 1]))
    assert set(load_image_data(replace(config, max_train_images=2)).train["label"]) == {0, 1}


def test_a_class_without_an_image_to_train_on_is_refused(tmp_path: Path) -> None:
    config = parquet(tmp_path / "d", train=labelled(["a", "b"], _string()), test=labelled(["a", "c"], _string()))
    assert "'test' has images of 1 class: c, but 'train' has none; use splits with the same classes" in error_text(
        config
    )


def _string() -> object:
    import datasets

    return datasets.Value("string")


# -- identity


def test_the_identity_is_of_names_sizes_and_labels_and_of_no_place(tmp_path: Path) -> None:
    config = image_folder(tmp_path / "here", train={"a": 3, "b": 3}, test={"a": 2, "b": 2})
    before = data_identity(load_image_data(config))
    assert (before["train_images"], before["eval_images"], before["label_names"]) == (6, 4, ["a", "b"])

    def identity(name: str, train: tuple[str, str] | None = None, grown: bool = False) -> dict[str, object]:
        copy = Path(shutil.copytree(tmp_path / "here", tmp_path / name / "mounted"))
        if train is not None:
            (copy / train[0]).rename(copy / train[1])
        if grown:
            (copy / "test/a/0.png").write_bytes((copy / "test/a/0.png").read_bytes() + b"\0")
        return data_identity(load_image_data(replace(config, dataset=str(copy))))

    assert identity("there") == before
    for name, moved in (("renamed", "train/a/7.png"), ("relabelled", "train/b/9.png")):
        changed = identity(name, ("train/a/0.png", moved))
        assert changed["train_digest"] != before["train_digest"]
        assert changed["eval_digest"] == before["eval_digest"]
    assert identity("grown", grown=True)["eval_digest"] != before["eval_digest"]


def test_the_identity_of_data_files_is_that_of_their_images(tmp_path: Path) -> None:
    config = parquet(tmp_path / "d", train=numbered(0, 6), test=numbered(6, 2))
    before = data_identity(load_image_data(config))
    again = parquet(tmp_path / "e", train=[numbered(0, 2), numbered(2, 4)], test=numbered(6, 2))
    assert data_identity(load_image_data(again)) == before, "whatever the files that hold them"
    other = parquet(tmp_path / "f", train=numbered(1, 6), test=numbered(6, 2))
    assert data_identity(load_image_data(other))["train_digest"] != before["train_digest"]
    limited = data_identity(load_image_data(replace(config, max_train_images=4)))
    assert (limited["train_images"], limited["eval_digest"]) == (4, before["eval_digest"])
    streamed = data_identity(load_image_data(replace(config, streaming=True)))
    assert (streamed["train_images"], streamed["eval_digest"]) == (6, before["eval_digest"])
