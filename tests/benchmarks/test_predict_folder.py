"""Timing of predictions for a folder."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from tests.benchmarks.scripts import load_script


def test_a_record_becomes_three_rows_of_the_table(tmp_path: Path) -> None:
    script = load_script("predict_folder")
    paths = script.photographs(tmp_path, 17)
    assert Image.open(paths[-1]).size == (512, 384)
    record = script.measure("test_resnet", paths, workers=1, rounds=2)
    assert record["images"] == 17
    lines = script.table([record, {**record, "images": 5}])
    assert [line.split(" | ")[1] for line in lines[2:5]] == [
        "none: tensors are ready",
        "`--workers 0`",
        "`--workers 1`",
    ]
    assert "rounds of 5 images" in lines[-1]
