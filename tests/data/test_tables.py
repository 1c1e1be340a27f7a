"""A folder of photos with a file of labels: which photo a line means, its split, and what is wrong with it."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path

import pytest

from ssia_zoo.data import DataConfig, load_eval_data, load_image_data, train_loader
from ssia_zoo.data.labels import read_labels
from ssia_zoo.data.streaming import ImageStream
from tests.helpers.data_folders import MEAN, STD, error_text, pictures
from tests.helpers.spreadsheets import LABELS, NAMES, labelled_photos, photos, table

PATHS = table({"path": NAMES, "label": LABELS})


@pytest.mark.covers("labels")
def test_photos_get_the_labels_of_the_file(tmp_path: Path) -> None:
    config = labelled_photos(tmp_path, PATHS)
    found = load_image_data(config)
    assert (len(found.train), len(found.eval), found.label_names) == (9, 3, ("cat", "cow", "dog"))
    number = {path: found.label_names.index(label) for path, label in zip(NAMES, LABELS, strict=True)}
    for rows in (found.train, found.eval):
        assert not isinstance(rows, ImageStream)
        names = [Path(image.filename).name for image in rows["path"]]
        assert read_labels(rows, "label") == [number[name] for name in names]
    assert next(iter(train_loader(found, config, mean=MEAN, std=STD, seed=0)))[0].shape == (2, 8, 8, 3)


def test_validation_without_splits_takes_all_photos(tmp_path: Path) -> None:
    config = labelled_photos(tmp_path, PATHS)
    assert len(load_eval_data(replace(config, holdout=0.0)).eval) == 12
    assert len(load_eval_data(config).eval) == 3, "those that training held out"
    assert "there is no evaluation split; set `holdout`" in error_text(replace(config, holdout=0.0))


def test_a_column_named_split_gives_the_splits(tmp_path: Path) -> None:
    splits = ["Train", "training", "val", "test"] * 3
    content = table({"path": NAMES, "label": LABELS, "split": splits})
    config = labelled_photos(tmp_path, content, holdout=0.0)
    found = load_image_data(config)
    assert (len(found.train), len(found.eval), found.eval_name) == (6, 3, "validation")
    assert load_eval_data(replace(config, eval_split="val")).eval_name == "validation"
    assert load_eval_data(replace(config, eval_split="test")).label_names == ("cat", "cow", "dog"), "of all splits"
    empty = labelled_photos(tmp_path, content.replace(",val\n", ",\n"), holdout=0.0)
    assert "3 rows of labels.csv have no split (lines 4, 8, 12); fill them" in error_text(empty)


def test_the_first_folder_of_each_path_gives_the_splits_if_all_name_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    names = [f"{('train', 'test')[number % 2]}/{number}.png" for number in range(12)]
    photos(tmp_path / "photos", names)
    found = load_image_data(labelled_photos(tmp_path, table({"path": names, "label": LABELS}), holdout=0.0))
    assert (len(found.train), len(found.eval), found.eval_name) == (6, 6, "test")
    assert "has no column 'split'; the first folder of each path names it" in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        lambda name: f"photos/{name}",  # relative to the file of labels
        lambda name: f".\\{name}",
        lambda name: name.removesuffix(".png"),
    ],
)
def test_paths_are_found_in_either_folder_with_backslashes_and_without_suffix(tmp_path: Path, change: object) -> None:
    assert callable(change)
    content = table({"id": [change(name) for name in NAMES], "label": LABELS})
    config = labelled_photos(tmp_path, content)
    assert len(load_image_data(config).train) == 9


def test_names_without_folder_are_found_in_subfolders_unless_several_have_them(tmp_path: Path) -> None:
    photos(tmp_path / "photos", [f"{('a', 'b')[number % 2]}/{name}" for number, name in enumerate(NAMES)])
    config = labelled_photos(tmp_path, PATHS)
    assert len(load_image_data(config).train) == 9
    pictures(1)[0].save(tmp_path / "photos" / "a" / NAMES[1])
    message = error_text(config)
    assert "1 of 12 names in labels.csv are those of several photos, such as 01.png; write the folder" in message


def test_missing_photos_are_counted_and_the_first_named(tmp_path: Path) -> None:
    message = error_text(labelled_photos(tmp_path, PATHS.replace("\n0", "\nx/0")))
    assert message.startswith("10 of 12 images in labels.csv do not exist, such as x/00.png, x/01.png, x/02.png, …; ")
    empty = labelled_photos(tmp_path, PATHS.replace("03.png,", ","))
    assert "1 rows of labels.csv have no path (line 5); fill or remove them" in error_text(empty)


def test_photos_without_a_label_and_repeated_lines_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = table({"path": NAMES[:8], "label": LABELS[:8]})
    found = load_image_data(labelled_photos(tmp_path, first + "00.png,cat\n"))
    assert len(found.train) + len(found.eval) == 8
    left_out = "left out rows that repeat an image (1), photos without a label (4: 08.png, 09.png, 10.png, …)"
    assert left_out in caplog.text


def test_a_photo_with_two_labels_is_an_error_with_both_lines(tmp_path: Path) -> None:
    message = error_text(labelled_photos(tmp_path, PATHS + "00.png,dog\n"))
    assert message.startswith("00.png has different labels in labels.csv: 'cat' (line 2) and 'dog' (line 14); keep one")


def test_a_photo_in_two_splits_is_an_error(tmp_path: Path) -> None:
    splits = ["train"] * 6 + ["test"] * 6
    content = table({"path": NAMES, "label": LABELS, "split": splits}) + "00.png,cat,test\n"
    message = error_text(labelled_photos(tmp_path, content, holdout=0.0))
    assert message.startswith("1 images of 'test' are also training images, such as ")


@pytest.mark.parametrize("column", ["path", "file_name", "where"])
def test_the_column_of_paths_is_found_by_its_cells(tmp_path: Path, column: str) -> None:
    found = load_image_data(labelled_photos(tmp_path, table({"label": LABELS, column: NAMES})))
    assert found.image_column == column


def test_columns_that_do_not_decide_are_named(tmp_path: Path) -> None:
    twice = labelled_photos(tmp_path, table({"photo": NAMES, "mask": NAMES, "label": LABELS}))
    assert "labels.csv has several columns of images; set `image_column` to one of: photo, mask" in error_text(twice)
    assert load_image_data(replace(twice, image_column="mask")).image_column == "mask"
    wrong = "labels.csv has no column 'phot' (`image_column`), but photo, mask, label; did you mean photo?"
    assert wrong in error_text(replace(twice, image_column="phot"))
    none = labelled_photos(tmp_path, table({"who": LABELS, "label": LABELS}))
    assert "labels.csv has no column of image paths; set `image_column` to one of: who, label" in error_text(none)


def test_labels_need_a_folder_of_photos(tmp_path: Path) -> None:
    assert "`labels` requires the folder of the photos as `dataset`" in error_text(DataConfig("digits", labels="x.csv"))
    (tmp_path / "labels.csv").touch()
    assert "a CSV or TSV file of labels by `labels`" in error_text(DataConfig(str(tmp_path / "labels.csv")))
    config = labelled_photos(tmp_path, PATHS, dataset_config="x")
    assert "has no configurations; leave it out" in error_text(config)


def test_a_stream_has_the_labels_of_the_file(tmp_path: Path) -> None:
    splits = ["train", "test", "train"] * 4
    content = table({"path": NAMES, "label": LABELS, "split": splits})
    config = labelled_photos(tmp_path, content, holdout=0.0, streaming=True)
    assert len(load_image_data(config).train) == 8


@pytest.mark.parametrize("cell", ['"cat', '"cat\n02.png,dog"'])
def test_a_stray_quote_does_not_swallow_lines(tmp_path: Path, cell: str) -> None:
    config = labelled_photos(tmp_path, PATHS.replace("01.png,dog", f"01.png,{cell}"))
    assert re.search(r"line \d+ of labels.csv (cannot be read|ends a cell of several lines)", error_text(config))


def test_a_link_to_a_photo_is_that_photo(tmp_path: Path) -> None:
    config = labelled_photos(tmp_path, PATHS)
    (tmp_path / "photos" / "copy.png").symlink_to(NAMES[0])
    same = labelled_photos(tmp_path, f"{PATHS.rstrip()}\ncopy.png,{LABELS[0]}\n")
    assert len(load_eval_data(replace(same, holdout=0.0)).eval) == 12
    other = next(label for label in LABELS if label != LABELS[0])
    labelled_photos(tmp_path, f"{PATHS.rstrip()}\ncopy.png,{other}\n")
    assert "copy.png has different labels in labels.csv" in error_text(config)
