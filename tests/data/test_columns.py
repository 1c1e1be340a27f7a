"""Find the columns of images and labels, also image columns that are not marked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ssia_zoo.data import (
    DataConfig,
    eval_loader,
    load_image_data,
    train_loader,
)
from tests.helpers.data_folders import (
    AB,
    IMAGE,
    MEAN,
    STD,
    error_text,
    labelled,
    number_of,
    parquet,
    pictures,
    plain,
    rows,
)

pytestmark = pytest.mark.usefixtures("datasets_cache")
LARGE = pa.struct({"bytes": pa.large_binary(), "path": pa.large_string()})
SMALL = pa.struct({"path": pa.string(), "bytes": pa.binary()})


def struct(kind: pa.DataType) -> Callable[[Iterable[int]], pa.Array]:
    return lambda numbers: pa.array([{"bytes": plain(n), "path": f"{n}.png"} for n in numbers], kind)


COLUMNS: dict[str, Callable[[Iterable[int]], pa.Array]] = {
    "struct": struct(SMALL),
    "large struct": struct(LARGE),
    "struct of bytes": lambda numbers: pa.array([{"bytes": plain(n)} for n in numbers]),
    "struct of paths": lambda numbers: pa.array([{"bytes": None, "path": f"img/{n}.png"} for n in numbers], SMALL),
    "bytes": lambda numbers: pa.array([plain(n) for n in numbers]),
    "large bytes": lambda numbers: pa.array([plain(n) for n in numbers], pa.large_binary()),
    "paths": lambda numbers: pa.array([f"img/{n}.png" for n in numbers]),
    "large paths": lambda numbers: pa.array([f"img/{n}.png" for n in numbers], pa.large_string()),
}


def unmarked(root: Path, column: Callable[[Iterable[int]], pa.Array], name: str = "picture") -> DataConfig:
    """Write training images 0 to 5 and evaluation images 6 to 9, as bytes or as files, without marking the column."""
    (root / "img").mkdir(parents=True)
    for number in range(10):
        (root / "img" / f"{number}.png").write_bytes(plain(number))
    for split, numbers in (("train", range(6)), ("test", range(6, 10))):
        (root / "data").mkdir(exist_ok=True)
        table = pa.table({name: column(numbers), "label": [n % 2 for n in numbers], "note": ["x"] * len(numbers)})
        pq.write_table(table, root / "data" / f"{split}-00000-of-00001.parquet")
    return DataConfig(str(root), image_size=8, batch_size=2, workers=0, scale=(1, 1), ratio=(1, 1), hflip=0)


def numbers_of(config: DataConfig) -> tuple[list[tuple[int, int]], list[int]]:
    data = load_image_data(config)
    loader: Any = train_loader(data, config, mean=MEAN, std=STD, seed=0)
    trained = [(number_of(x), int(y)) for images, labels, _ in loader for x, y in zip(images, labels, strict=True)]
    evaluated = [number_of(x) for images, _ in eval_loader(data, config, mean=MEAN, std=STD) for x in images]
    return sorted(trained), evaluated


@pytest.mark.parametrize("streaming", [False, True], ids=["loaded", "streamed"])
@pytest.mark.parametrize("kind", COLUMNS)
def test_unmarked_image_columns_are_found(tmp_path: Path, kind: str, streaming: bool) -> None:
    config = unmarked(tmp_path / "d", COLUMNS[kind])
    if streaming:
        config = replace(config, streaming=True, shuffle_buffer=0, num_classes=2)
    expected = [(n, n % 2) for n in range(6)], [6, 7, 8, 9]
    assert numbers_of(config) == expected
    assert numbers_of(replace(config, image_column="picture")) == expected


def test_a_column_without_images_is_not_an_image_column(tmp_path: Path) -> None:
    config = unmarked(tmp_path / "d", lambda numbers: pa.array([b"?" for _ in numbers]))
    assert "there is no image column among picture, label, note; name it by `image_column`" in error_text(config)
    gone = unmarked(tmp_path / "e", lambda numbers: pa.array([f"elsewhere/{n}.png" for n in numbers]))
    assert "names images that do not exist, such as elsewhere/0.png" in error_text(gone)


def test_paths_that_are_in_both_splits_are_refused(tmp_path: Path) -> None:
    config = unmarked(tmp_path / "d", COLUMNS["paths"])
    (tmp_path / "d" / "img" / "9.png").unlink()
    (tmp_path / "d" / "img" / "9.png").symlink_to(tmp_path / "d" / "img" / "3.png")
    assert "1 images of 'test' are also training images, such as" in error_text(config)


@pytest.mark.covers("train_split", "eval_split", "image_column", "label_column")
def test_splits_and_columns_can_be_named(tmp_path: Path) -> None:
    columns = {"image": pictures(3), "mask": pictures(3), "fine": [0, 1, 1], "coarse": [1, 0, 1]}
    table = rows(columns, image=IMAGE, mask=IMAGE, fine=AB, coarse=datasets.ClassLabel(names=["x", "y"]))
    config = parquet(tmp_path / "two", train=table, validation=table, test=table.select([0, 1]))
    assert "set `image_column` to one of: image, mask" in error_text(config)
    config = replace(config, image_column="mask")
    assert "set `label_column` to one of: fine, coarse" in error_text(config)
    found = load_image_data(replace(config, label_column="coarse", train_split="test", eval_split="train"))
    assert (found.image_column, found.label_names, found.eval_name) == ("mask", ("x", "y"), "train")
    assert (len(found.train), len(found.eval)) == (2, 3)
    assert found.train.column_names == ["mask", "coarse"]


def test_errors_on_missing_splits_and_columns_name_the_candidates_and_the_setting(tmp_path: Path) -> None:
    config = parquet(tmp_path / "d", train=labelled([0, 1]))
    assert "there is no evaluation split; set `holdout`, such as 0.1" in error_text(config)
    assert "`train_split` can be one of: train" in error_text(replace(config, train_split="trains"))
    assert "`eval_split` train is the training split" in error_text(replace(config, eval_split="train"))
    config = replace(config, holdout=0.5)
    assert "`image_column` is 'label'; expected a column of images, one of: image" in error_text(
        replace(config, image_column="label")
    )
    assert "`label_column` is 'kind'; expected" in error_text(replace(config, label_column="kind"))
    assert "`label_column` is 'image'; expected a column of labels, one of: label" in error_text(
        replace(config, label_column="image")
    )
    plain = rows({"x": [0, 1], "y": [0, 1]}, x=datasets.Value("int64"), y=datasets.Value("int64"))
    assert "there is no image column among x, y; name it by `image_column`" in error_text(
        parquet(tmp_path / "plain", train=plain, test=plain)
    )
