"""Data files as other tools write them: names, configurations, mixed shards."""

from __future__ import annotations

import io
import logging
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import datasets
import PIL.Image
import pytest

from ssia_zoo.data import DataConfig, load_eval_data, load_image_data, train_loader
from tests.helpers.data_folders import (
    MEAN,
    STD,
    encoded,
    error_text,
    number_of,
    numbered,
    parquet,
)

pytestmark = pytest.mark.usefixtures("datasets_cache")


@pytest.mark.parametrize("name", ["photos [v2]", "a*b", "what?", "{x}"])
def test_a_folder_of_data_files_may_have_any_name(tmp_path: Path, name: str) -> None:
    config = parquet(tmp_path / name, train=numbered(0, 4), test=numbered(4, 2))
    assert (len(load_image_data(config).train), len(load_image_data(config).eval)) == (4, 2)
    streamed = load_image_data(replace(config, streaming=True))
    assert len(streamed.train) == 4


def test_split_words_in_file_names_may_have_any_case(tmp_path: Path) -> None:
    config = parquet(tmp_path / "d", train=numbered(0, 4), test=numbered(4, 2))
    for split in ("train", "test"):
        (tmp_path / "d" / f"{split}-00000-of-00001.parquet").rename(tmp_path / "d" / f"{split.title()}.parquet")
    data = load_image_data(config)
    assert (len(data.train), len(data.eval), data.eval_name) == (4, 2, "test")


def test_a_file_of_two_splits_is_refused(tmp_path: Path) -> None:
    config = parquet(tmp_path / "d", train=numbered(0, 4), test=numbered(4, 2))
    (tmp_path / "d" / "test-00000-of-00001.parquet").rename(tmp_path / "d" / "test-of-train.parquet")
    (tmp_path / "d" / "train-00000-of-00001.parquet").rename(tmp_path / "d" / "train-0.parquet")
    assert "names both the splits 'train' and 'test'" in error_text(config)


@pytest.mark.covers("dataset_config")
def test_one_of_several_configurations_is_chosen_by_the_setting(tmp_path: Path) -> None:
    root = tmp_path / "d"
    parquet(root / "small", train=numbered(0, 2), test=numbered(2, 2))
    parquet(root / "large", train=numbered(0, 6), test=numbered(6, 2))
    files = "\n".join(
        f"- config_name: {name}\n  data_files:\n"
        + "".join(f"  - {{split: {s}, path: {name}/{s}*}}\n" for s in ("train", "test"))
        for name in ("small", "large")
    )
    (root / "README.md").write_text(f"---\nconfigs:\n{files}\n---\n")
    config = DataConfig(str(root))
    assert "has several configurations; set `dataset_config` to one of: small, large" in error_text(config)
    assert "has no 'huge'; set `dataset_config` to one of: small, large" in error_text(
        replace(config, dataset_config="huge")
    )
    for name, count in (("small", 2), ("large", 6)):
        chosen = replace(config, dataset_config=name)
        assert len(load_image_data(chosen).train) == count
        assert len(load_image_data(replace(chosen, streaming=True)).train) == count
        assert len(load_eval_data(chosen).eval) == 2


@pytest.mark.parametrize("streaming", [False, True], ids=["loaded", "streamed"])
@pytest.mark.parametrize("forms", [("png", "jpg", "jpeg"), ("jpg",) * 7 + ("png",), ("JPG", "webp")])
def test_shards_may_mix_the_types_of_their_images(tmp_path: Path, forms: tuple[str, ...], streaming: bool) -> None:
    for split, numbers in (("train", range(8)), ("test", range(8, 10))):
        with tarfile.open(tmp_path / f"{split}-0.tar", "w") as tar:
            for number in numbers:
                suffix = forms[number % len(forms)]
                picture = PIL.Image.new("RGB", (8, 8), (number * 25, 0, 128))
                content = encoded(picture, {"png": "PNG", "webp": "WEBP"}.get(suffix, "JPEG"))
                for extension, part in ((suffix, content), ("cls", str(number % 2).encode())):
                    info = tarfile.TarInfo(f"image{number:05d}.{extension}")
                    info.size = len(part)
                    tar.addfile(info, io.BytesIO(part))
    config = DataConfig(str(tmp_path), image_size=8, batch_size=2, workers=0, max_corrupt=0, hflip=0)
    if streaming:
        config = replace(config, streaming=True, num_classes=2, max_train_images=8)
    data = load_image_data(config)
    loader = train_loader(data, config, mean=MEAN, std=STD, seed=0)
    red = [round(number_of(image) % 256 / 25) for images, *_ in loader for image in images]
    assert sorted(red) == list(range(8))
    data.unreadable_train.collect()


def test_a_local_folder_shows_no_progress_bars_and_leaves_their_setting_unchanged(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    many = [numbered(start, 2) for start in range(0, 40, 2)]
    config = parquet(tmp_path / "d", train=many, test=numbered(40, 2))
    capfd.readouterr()
    datasets.enable_progress_bars()
    try:
        load_image_data(config)
        assert datasets.is_progress_bar_enabled()
    finally:
        datasets.disable_progress_bars()
    assert "it/s" not in capfd.readouterr().err


def test_evaluation_reads_no_files_of_other_splits(tmp_path: Path) -> None:
    config = parquet(tmp_path / "d", train=numbered(0, 4), test=numbered(4, 2))
    (tmp_path / "d" / "train-00000-of-00001.parquet").write_bytes(b"damaged")
    assert len(load_eval_data(config).eval) == 2
    (tmp_path / "d" / "train-00000-of-00001.parquet").unlink()
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    assert load_eval_data(config).eval_name == "test"


def test_data_files_that_belong_to_no_split_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = parquet(tmp_path / "d", train=numbered(0, 4), test=numbered(4, 2), extra=numbered(6, 2))
    with caplog.at_level(logging.WARNING):
        data = load_image_data(config)
    assert (len(data.train), len(data.eval)) == (4, 2)
    assert "whose names match no split (1): extra-00000-of-00001.parquet" in caplog.text


@pytest.mark.parametrize("other", ["Holdout", "extra-data"])
def test_files_beside_those_of_a_split_are_not_trained_on(tmp_path: Path, other: str) -> None:
    config = parquet(tmp_path / "d", train=numbered(0, 4), test=numbered(4, 2))
    (tmp_path / "d" / "train-00000-of-00001.parquet").rename(tmp_path / "d" / "Train.parquet")
    (tmp_path / "d" / "test-00000-of-00001.parquet").rename(tmp_path / "d" / f"{other}.parquet")
    name = other.replace("-", "_")
    message = error_text(config)
    assert "`eval_split`" in message
    assert name in message
    data = load_image_data(replace(config, eval_split=name))
    assert (len(data.train), len(data.eval)) == (4, 2)
    assert len(load_image_data(replace(config, holdout=0.5)).train) == 2
