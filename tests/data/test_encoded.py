"""The identity of images: names, byte sizes and labels."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import datasets
import pytest

from ssia_zoo.data import data_identity, load_image_data
from ssia_zoo.data.encoded import encoded_images
from tests.helpers.data_folders import AB, IMAGE, image_folder, numbered, parquet, plain, rows

pytestmark = pytest.mark.usefixtures("datasets_cache")


def test_the_identity_depends_on_names_sizes_and_labels_but_not_on_the_folder(tmp_path: Path) -> None:
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


def test_the_identity_of_data_files_does_not_depend_on_how_they_are_divided(tmp_path: Path) -> None:
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


def test_the_identity_of_a_stream_depends_on_what_is_known_of_its_files_but_not_on_the_folder(tmp_path: Path) -> None:
    def identity(folder: str, parts: list[datasets.Dataset]) -> dict[str, object]:
        config = parquet(tmp_path / folder, train=parts, test=numbered(6, 2))
        return data_identity(load_image_data(replace(config, streaming=True)))

    before = identity("d", [numbered(0, 2), numbered(2, 4)])
    assert identity("e", [numbered(0, 2), numbered(2, 4)]) == before
    assert identity("f", [numbered(0, 6)]) != before, "one file is streamed in another order"
    images = [{"bytes": plain(n), "path": f"another {n}.png"} for n in range(4)]
    others = rows({"image": images, "label": [n % 2 for n in range(4)]}, image=IMAGE, label=AB)
    assert identity("g", [numbered(0, 2), others])["train_digest"] != before["train_digest"]


def test_the_identity_of_streamed_image_files_covers_their_names(tmp_path: Path) -> None:
    config = replace(image_folder(tmp_path / "d", train={"a": 3, "b": 3}, test={"a": 2, "b": 2}), streaming=True)
    before = data_identity(load_image_data(config))
    (tmp_path / "d/train/a/0.png").rename(tmp_path / "d/train/a/7.png")
    assert data_identity(load_image_data(config))["train_digest"] != before["train_digest"]


def test_a_url_among_local_files_keeps_its_name() -> None:
    images = [{"path": path, "bytes": None} for path in ("/d/a/0.png", "/d/b/1.png", "https://host/2.png")]
    names = encoded_images(rows({"image": images}, image=IMAGE), "image").portable_names()
    assert names == ["a/0.png", "b/1.png", "https://host/2.png"]
