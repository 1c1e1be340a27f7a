"""Find images with the same bytes in both splits."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest

from ssia_zoo.data import DataConfig, load_image_data
from tests.helpers.data_folders import image_folder, numbered, parquet

pytestmark = pytest.mark.usefixtures("datasets_cache")


def warnings(config: DataConfig, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING, "ssia_zoo"):
        load_image_data(config)
    return [message for message in caplog.messages if "byte for byte" in message]


def test_images_in_both_splits_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = parquet(tmp_path / "d", train=numbered(0, 6), test=numbered(4, 6))
    (warning,) = warnings(config, caplog)
    assert warning.startswith("2 of 6 images of 'test' equal a training image byte for byte, such as row 0")
    assert warnings(parquet(tmp_path / "e", train=numbered(0, 6), test=numbered(6, 6)), caplog) == []


def test_files_of_equal_size_are_compared_to_their_last_byte(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = image_folder(tmp_path, train={"a": 1, "b": 1}, test={"a": 1, "b": 1})
    content = bytearray(os.urandom(50_000))
    for place, byte in (("train/a", 0), ("train/b", 1), ("test/a", 0), ("test/b", 2)):
        content[25_000] = byte
        (tmp_path / place / "0.png").write_bytes(content)
    (warning,) = warnings(config, caplog)
    assert warning.startswith(
        f"1 of 2 images of 'test' equal a training image byte for byte, such as {tmp_path}/test/a/0"
    )


def test_a_holdout_is_compared_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = parquet(tmp_path / "d", train=[numbered(0, 6), numbered(0, 6)])
    (warning,) = warnings(replace(config, holdout=0.25), caplog)
    assert "of 3 images of 'holdout 25% of train'" in warning


@pytest.mark.covers("check_duplicates")
def test_many_images_are_compared_only_if_the_setting_asks_for_it(
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
