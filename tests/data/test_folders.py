"""Folders of images: the first level names the split, the level below it the class."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from ssia_zoo.data import DataConfig, EvalData, ImageData, load_eval_data, load_image_data, train_loader
from ssia_zoo.inference.images import find_images
from tests.helpers.data_folders import MEAN, STD, error_text

pytestmark = pytest.mark.usefixtures("datasets_cache")
_drawn = iter(range(10**6))


def folder(root: Path, **counts: int) -> DataConfig:
    """Write folders with a number of images, all different; "__" in a name means "/"."""
    for place, count in counts.items():
        below = root / place.replace("__", "/")
        below.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            image(below / f"{number}.png")
    return DataConfig(str(root), image_size=8, batch_size=2, workers=0)


def image(path: Path) -> None:
    number = next(_drawn)
    PIL.Image.new("RGB", (8, 8), (number % 256, number // 256 % 256, number // 65536)).save(path)


def found(rows: Any, data: EvalData, root: Path) -> list[tuple[str, str]]:
    """Return the relative path and the class of each image."""
    paths = [value["path"] for value in rows.data.column("image").to_pylist()]
    chosen = range(len(paths)) if rows._indices is None else rows._indices.column(0).to_pylist()
    labels = [data.label_names[label] for label in rows["label"]]
    return [(Path(paths[row]).relative_to(root).as_posix(), label) for row, label in zip(chosen, labels, strict=True)]


def check(data: ImageData, root: Path, train: str, test: str, level: int = 1) -> None:
    """Check that each image below two folders is used once, in its split, with the right class."""
    for rows, split in ((data.train, train), (data.eval, test)):
        expected = sorted(path.relative_to(root).as_posix() for path in (root / split).rglob("*.png"))
        got = found(rows, data, root)
        assert sorted(path for path, _ in got) == expected
        assert all(path.split("/")[level] == label for path, label in got)


# -- splits


@pytest.mark.parametrize(
    ("train", "test", "name"),
    [
        ("train", "val", "validation"),
        ("Train", "Test", "test"),
        ("Training", "Testing", "test"),
        ("TRAIN", "VAL", "validation"),
        ("train", "dev", "validation"),
        ("train", "evaluation", "test"),
        ("training_set", "test_set", "test"),
        ("trainset", "testset", "test"),
        ("Train-Images", "Validation Images", "validation"),
        ("TrainData", "ValidData", "validation"),
    ],
)
def test_the_first_level_is_the_split_whatever_the_classes_are_called(
    tmp_path: Path, train: str, test: str, name: str
) -> None:
    for split, count in ((train, 3), (test, 2)):
        for class_name in ("train", "test", "validation", "train_station", "bar"):
            folder(tmp_path / split / class_name, **{".": count})
    data = load_image_data(DataConfig(str(tmp_path)))
    assert (len(data.train), len(data.eval), data.eval_name) == (15, 10, name)
    check(data, tmp_path, train, test)


def test_without_splits_the_first_level_is_the_class(tmp_path: Path) -> None:
    config = folder(tmp_path, bus=4, car=4, train=4, test_tube=4)
    data = load_image_data(replace(config, holdout=0.25))
    assert (len(data.train), len(data.eval)) == (12, 4)
    assert data.label_names == ("bus", "car", "test_tube", "train")
    assert "set `holdout`, such as 0.1" in error_text(config)


def test_folders_below_a_class_belong_to_it(tmp_path: Path) -> None:
    counts = {f"{s}__{c}__{y}": 2 for s in ("train", "test") for c in ("cat", "dog") for y in ("2021", "train__val")}
    data = load_image_data(folder(tmp_path, **counts))
    assert data.label_names == ("cat", "dog")
    check(data, tmp_path, "train", "test")


def test_a_single_folder_around_the_splits_is_skipped(tmp_path: Path) -> None:
    counts = {f"pets__{split}__{name}": 2 for split in ("train", "test") for name in ("cat", "dog")}
    check(load_image_data(folder(tmp_path, **counts)), tmp_path / "pets", "train", "test")
    doubled = {f"{s}__{s}__{c}": 2 for s in ("seg_train", "seg_test") for c in ("ice", "sea")}
    data = load_image_data(folder(tmp_path / "doubled", **doubled, seg_pred__seg_pred=2))
    check(data, tmp_path / "doubled", "seg_train", "seg_test", level=2)


def test_a_folder_that_can_be_a_split_or_a_class_is_refused_unless_a_setting_names_it(tmp_path: Path) -> None:
    config = folder(tmp_path, train__old=4, train__new=4, bus__old=4)
    assert "train can be a split or a class beside bus; name the split by `train_split`" in error_text(config)
    data = load_image_data(replace(config, train_split="train", eval_split="bus"))
    assert (len(data.train), len(data.eval), data.label_names) == (8, 4, ("new", "old"))


def test_a_split_is_found_by_its_folders_name_too(tmp_path: Path) -> None:
    config = folder(tmp_path, Train__a=2, Train__b=2, val__a=1, Test__b=1)
    assert load_image_data(replace(config, eval_split="Test", train_split="Train")).eval_name == "test"
    assert load_image_data(replace(config, eval_split="val")).eval_name == "validation"
    twice = folder(tmp_path / "twice", train__a=1, train__b=1, Training__a=1, Training__b=1, test__a=1)
    assert load_image_data(replace(twice, train_split="Training")).train.num_rows == 2


# -- classes


@pytest.mark.parametrize("name", ["__background__", "_noise_", "__pycache__x", "a b", "ü", "[v2]", "*", "100%", "a,b"])
def test_a_class_may_have_any_name(tmp_path: Path, name: str) -> None:
    for split in ("train", "test"):
        for class_name in (name, "cat"):
            folder(tmp_path / "photos [v2]" / split / class_name, **{".": 2})
    data = load_image_data(DataConfig(str(tmp_path / "photos [v2]")))
    assert data.label_names == tuple(sorted((name, "cat")))
    check(data, tmp_path / "photos [v2]", "train", "test")


@pytest.mark.parametrize("suffix", [".avif", ".jfif", ".jp2", ".JPG", ".webp", ".ppm", ".tga", ".mpo", ".jpe"])
def test_a_class_of_one_unusual_type_of_files_is_used(tmp_path: Path, suffix: str) -> None:
    config = folder(tmp_path, train__a=2, test__a=2)
    form = {".jfif": "JPEG", ".jpe": "JPEG", ".mpo": "JPEG"}.get(suffix)
    for split in ("train", "test"):
        (tmp_path / split / "b").mkdir()
        PIL.Image.new("RGB", (8, 8)).save(tmp_path / split / "b" / f"0{suffix}", form)
    (tmp_path / "test" / "b" / f"0{suffix}").write_bytes((tmp_path / "train" / "b" / f"0{suffix}").read_bytes())
    data = load_image_data(replace(config, batch_size=3))
    assert (data.label_names, len(data.train)) == (("a", "b"), 3)
    assert len(next(iter(train_loader(data, replace(config, batch_size=3), mean=MEAN, std=STD, seed=0)))[1]) == 3
    data.unreadable_train.collect()
    assert len(data.unreadable_train) == 0
    assert len(find_images([tmp_path / "train" / "b"], lambda path, why: pytest.fail(why))) == 1, "predict finds it too"


@pytest.mark.parametrize("content", [("x.heic", b"?"), ("x.jxl", b"?"), ("x", None), ("x.dat", None)])
def test_a_class_of_unsupported_images_is_refused_by_name(tmp_path: Path, content: tuple[str, bytes | None]) -> None:
    config = folder(tmp_path, train__a=2, train__b=2, train__c=1, test__a=1)
    name, data = content
    png = (tmp_path / "train" / "c" / "0.png").read_bytes()
    (tmp_path / "train" / "c" / "0.png").unlink()
    (tmp_path / "train" / "c" / name).write_bytes(data or png)
    assert (
        f"the class folder train/c in {tmp_path} holds no image of a supported type, but train/c/{name}"
        in error_text(config)
    )


# -- log


def test_the_log_lists_what_was_found_and_what_was_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = folder(tmp_path, train__a=3, train__b=3, val__a=2, val__b=2, test__a=1, train=2)
    (tmp_path / "train" / "empty").mkdir()
    (tmp_path / "train" / ".NET").mkdir()
    image(tmp_path / "beside.png")
    (tmp_path / "train" / "a" / "notes.txt").touch()
    (tmp_path / "train" / "a" / ".hidden.png").touch()
    with caplog.at_level(logging.INFO, "ssia_zoo"):
        load_image_data(config)
    first, second = caplog.messages
    assert first == f"{tmp_path}: 6 images of train, 4 images of validation, 2 classes (not used: test)"
    assert second.startswith(f"{tmp_path}: left out ")
    for part in (
        "folders without images (train/empty)",
        ".txt (1)",
        "hidden (1)",
        "hidden folder train/.NET (1)",
        "images outside the class folders of train (2)",
        "images outside the splits (1)",
    ):
        assert part in second


def test_only_the_main_process_logs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = folder(tmp_path, train__a=1, train__b=1, test__a=1)
    monkeypatch.setenv("RANK", "1")
    with caplog.at_level(logging.INFO, "ssia_zoo"):
        load_image_data(config)
    assert caplog.messages == []


# -- links and unreadable folders


def test_links_are_followed(tmp_path: Path) -> None:
    counts = {f"{split}__{name}": 2 for split in ("one", "two") for name in ("a", "b")}
    folder(tmp_path / "store", **counts)
    (tmp_path / "d" / "val").mkdir(parents=True)
    (tmp_path / "d" / "train").symlink_to(tmp_path / "store" / "one")
    (tmp_path / "d" / "val" / "a").symlink_to(tmp_path / "store" / "two" / "a")
    (tmp_path / "d" / "val" / "b").mkdir()
    (tmp_path / "d" / "val" / "b" / "x.png").symlink_to(tmp_path / "store" / "two" / "b" / "0.png")
    data = load_image_data(DataConfig(str(tmp_path / "d")))
    assert (len(data.train), len(data.eval), data.label_names) == (4, 3, ("a", "b"))


@pytest.mark.parametrize("place", ["again", "train/again", "train/a/again", "train/a/below/again"])
def test_a_link_to_a_folder_that_contains_it_is_refused(tmp_path: Path, place: str) -> None:
    config = folder(tmp_path, train__a=1, train__b=1, test__a=1, train__a__below=1)
    (tmp_path / place).symlink_to((tmp_path / place).parent)
    assert "is a link to a folder that contains it" in error_text(config)


def test_a_file_that_links_lead_to_twice_is_used_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = folder(tmp_path, train__a__2021=2, train__b=2, test__a=1)
    (tmp_path / "train" / "a" / "latest").symlink_to(tmp_path / "train" / "a" / "2021")
    assert len(load_image_data(config).train) == 4
    assert "links to the same images (2)" in caplog.text
    (tmp_path / "train" / "b" / "wrong.png").symlink_to(tmp_path / "train" / "a" / "2021" / "0.png")
    assert "are one file in two classes" in error_text(config)


@pytest.mark.parametrize("of", ["split", "class", "file"])
def test_files_that_are_trained_and_evaluated_on_are_refused(tmp_path: Path, of: str) -> None:
    config = folder(tmp_path, train__a=2, train__b=2, test__b=1)
    link, target = {
        "split": ("test", "train"),
        "class": ("test/a", "train/a"),
        "file": ("test/b/1.png", "train/b/1.png"),
    }[of]
    if of == "split":
        shutil.rmtree(tmp_path / "test")
    (tmp_path / link).symlink_to(tmp_path / target)
    message = error_text(config)
    assert f"{ {'split': 4, 'class': 2, 'file': 1}[of] } images of 'test' are also training images" in message
    assert len(load_eval_data(config).eval) > 0


def test_a_broken_link_is_an_unreadable_image_or_an_error(tmp_path: Path) -> None:
    config = folder(tmp_path, train__a=2, train__b=2, test__a=1)
    (tmp_path / "train" / "a" / "gone.png").symlink_to(tmp_path / "gone.png")
    data = load_image_data(replace(config, batch_size=5, max_corrupt=0.5))
    assert len(data.train) == 5, "it counts as an image that cannot be read"
    (tmp_path / "train" / "c").symlink_to(tmp_path / "nowhere")
    assert "train/c in" in error_text(config)
    assert "is a broken link" in error_text(config)


@pytest.mark.parametrize("place", ["train", "train/a", "train/a/below"])
def test_a_folder_that_cannot_be_read_is_refused_by_name(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = folder(tmp_path, train__a__below=1, train__b=1, test__a=1)
    scandir = os.scandir

    def denied(path: str) -> Any:
        if Path(path) == tmp_path / place:
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    assert f"{place} in {tmp_path} cannot be read (Permission denied); change its permissions" in error_text(config)


def test_names_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    config = folder(tmp_path, train__a=2, train__b=2, test__a=1)
    try:
        shutil.copy(tmp_path / "train" / "a" / "0.png", os.fsencode(tmp_path / "train" / "a") + b"/\xff.png")
    except OSError:
        pytest.skip("the file system takes no such names")
    assert "is not UTF-8; rename it" in error_text(config)


# -- evaluation alone


def test_evaluation_needs_no_training_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = folder(tmp_path / "d", test__a=2, test__c=1)
    assert "set `train_split` to one of: test" in error_text(config)
    data = load_eval_data(config)
    assert (len(data.eval), data.eval_name, data.label_names) == (3, "test", ("a", "c"))
    folder(tmp_path / "d", train__a=1, train__b=1, train__c=1)
    assert load_eval_data(config).label_names == ("a", "b", "c"), "as training numbers them"
    assert load_eval_data(config).eval["label"] == [0, 0, 2]
    folder(tmp_path / "d", train2__0=1, train2__a=1)
    assert load_eval_data(replace(config, train_split="train2")).label_names == ("0", "a", "c")
    unsplit = folder(tmp_path / "e", a=2, b=1)
    assert (len(load_eval_data(unsplit).eval), load_eval_data(unsplit).label_names) == (3, ("a", "b"))
    only_train = folder(tmp_path / "f", train__a=2, train__b=1)
    assert "set `eval_split` to train to evaluate on all of it" in error_text(only_train, load_eval_data)
    assert len(load_eval_data(replace(only_train, eval_split="train")).eval) == 3


def test_a_configuration_of_a_folder_of_images_is_refused(tmp_path: Path) -> None:
    config = folder(tmp_path, train__a=1, train__b=1, test__a=1)
    assert "`dataset_config` is 'x', but" in error_text(replace(config, dataset_config="x"))


# -- other files


def test_files_beside_the_images_do_not_change_what_the_folder_is(tmp_path: Path) -> None:
    counts = {f"{split}__{name}": 2 for split in ("train", "val") for name in ("a", "b")}
    config = folder(tmp_path, **counts, train__lostfound=0)
    for name in ("images.tar", "index.parquet", "labels.csv", "metadata.csv", "README.md", "train/meta.jsonl"):
        (tmp_path / name).write_text("id,label\n")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "0.xml").touch()
    (tmp_path / "train" / "a" / "@eaDir").mkdir()
    image(tmp_path / "train" / "a" / "@eaDir" / "thumb.png")
    data = load_image_data(config)
    assert (len(data.train), len(data.eval), data.label_names) == (4, 4, ("a", "b"))


def test_images_with_a_metadata_file_have_their_classes_from_it(tmp_path: Path) -> None:
    config = folder(tmp_path / "d", train=2, test=2)
    for split in ("train", "test"):
        (tmp_path / "d" / split / "metadata.csv").write_text("file_name,label\n0.png,cat\n1.png,dog\n")
    data = load_image_data(config)
    assert (len(data.train), len(data.eval), data.label_names) == (2, 2, ("cat", "dog"))
    assert data.train["label"] == [0, 1]


def test_each_folder_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {f"{split}__{name}__below": 2 for split in ("train", "val") for name in ("a", "b", "c")}
    config = folder(tmp_path, **counts)
    listed: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(str(path)) or scandir(path))
    load_image_data(config)
    assert len(listed) == len(set(listed)) == 1 + 2 + 2 * 3 * 2


def test_a_split_of_unsupported_images_is_refused_by_name(tmp_path: Path) -> None:
    config = folder(tmp_path, train__a=2, train__b=2, test__a=2, test__b=2)
    (tmp_path / "val" / "a").mkdir(parents=True)
    (tmp_path / "val" / "a" / "0.heic").write_bytes(b"heic")
    for use in (load_image_data, load_eval_data):
        assert "the split val" in error_text(config, use)
        assert "val/a/0.heic" in error_text(config, use)


def test_an_empty_folder_beside_the_splits_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = folder(tmp_path, train__a=2, train__b=2, test__a=2, test__b=2)
    (tmp_path / "val" / "a").mkdir(parents=True)
    with caplog.at_level(logging.WARNING):
        load_image_data(config)
    assert caplog.text.count("folders without images (val)") == 1


def test_a_data_file_that_names_no_split_does_not_change_the_classes(tmp_path: Path) -> None:
    config = replace(folder(tmp_path, cat__2021=3, cat__2022=3, dog__2021=3, dog__2022=3), holdout=0.25)
    (tmp_path / "features.parquet").write_bytes(b"PAR1")
    (tmp_path / "cat" / "backup.tar").touch()
    data = load_image_data(config)
    assert (len(data.train), len(data.eval), data.label_names) == (9, 3, ("cat", "dog"))


def test_the_training_split_under_another_name_is_refused_for_evaluation(tmp_path: Path) -> None:
    config = folder(tmp_path, training__a=2, training__b=2, val__a=1, val__b=1)
    assert "`eval_split` training is the training split of" in error_text(replace(config, eval_split="training"))
    assert len(load_image_data(config).eval) == 2


def test_evaluating_a_folder_without_splits_says_that_it_takes_all(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = folder(tmp_path, a=4, b=4)
    load_eval_data(config)
    assert "has no splits, so all of its images are evaluated; if the model was trained on them, set" in caplog.text
    caplog.clear()
    load_eval_data(replace(config, holdout=0.25))
    assert "all of its images" not in caplog.text
