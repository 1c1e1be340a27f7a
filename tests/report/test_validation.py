"""The report of a model: a page that loads nothing, figures, tables, and pictures of the worst mistakes."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

from ssia_zoo.errors import ConfigError, SSIAZooError
from ssia_zoo.evaluation.answers import read_answers
from ssia_zoo.evaluation.validate import validate
from ssia_zoo.report import report_model, write_report
from ssia_zoo.report.pictures import Mistake
from tests.helpers.answers import made
from tests.helpers.colours import NAMES, Colour, stored

FILES = {"report.html", "report.json", "per_class.csv", "per_image.parquet", "confusion.png", "calibration.png"}


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def assert_self_contained(page: str) -> None:
    assert "default-src 'none'" in page
    assert re.findall(r"""(?:src|href)\s*=\s*"(?!data:)""", page) == []
    assert not re.search(r"https?://|@import|url\(", page)
    assert "width=device-width" in page


def test_a_report_shows_the_worst_mistakes_and_where_the_model_looked(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=3)
    model.pretrained_cfg["label_names"] = NAMES
    config = replace(stored(tmp_path / "data", ["blue", "red", "green"], NAMES), image_size=32)
    folder = tmp_path / "report"
    scores = report_model(model, config, folder, title="mine")
    measured = validate(model, config)
    assert scores.top1 == measured["top1"] < 100
    assert scores.loss == pytest.approx(measured["loss"], rel=1e-5)
    assert files(folder) == FILES | {"mistakes.png"}
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert_self_contained(page)
    wrong = len(read_answers(folder)) - int(read_answers(folder).correct.sum())
    assert page.count('alt="image"') == page.count('alt="where the model looked"') == wrong
    document = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert document["top1"] == scores.top1
    assert sum(map(sum, document["confusion_matrix"])) == 6
    assert [row["name"] for row in document["classes"]] == ["blue", "red", "green"]
    assert (len(document["bins"]), document["unreadable"]) == (15, 0)


def test_a_model_without_maps_has_a_report_without_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = Colour(NAMES)
    model.scale.data.fill_(-1)
    report_model(model, stored(tmp_path / "data", NAMES, NAMES), tmp_path / "report", title="mine")
    assert Image.open(tmp_path / "report" / "mistakes.png").format == "PNG"
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert page.count('alt="image"') == 6
    assert "where the model looked" not in page
    assert caplog.text.count("the report shows no maps") == 1


def test_a_page_escapes_names_and_lists_classes_by_f1(tmp_path: Path) -> None:
    names = ("<b>x</b>", "second & third", "unseen")
    answers = made([0, 0, 1, 1], [0, 1, 1, 1], names=names)
    curves = [
        {"kind": "train", "epoch": 0.5, "task_loss": 1.0},
        {"kind": "eval", "epoch": 1, "loss": 0.9, "top1": 50.0},
        {"kind": "other"},
    ]
    write_report(answers, tmp_path, title="<i>", about="a < b", curves=curves)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert_self_contained(page)
    assert "<b>x" not in page
    assert "<title>&lt;i&gt;</title>" in page
    cells = re.findall(r"<tr><td>([^<]*)</td><td data-value", page)
    assert cells == ["&lt;b&gt;x&lt;/b&gt;", "second &amp; third", "unseen"]
    assert "1 of 3 classes have no images" in page
    assert files(tmp_path) == FILES | {"curves.png"}
    for name in ("curves.png", "confusion.png", "calibration.png"):
        assert Image.open(tmp_path / name).format == "PNG"
    with (tmp_path / "per_class.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert table[2] == {"class": "unseen", "images": "0", "predicted": "0", "precision": "", "recall": "", "f1": ""}
    write_report(answers, tmp_path, title="again")
    assert files(tmp_path) == FILES


def test_figures_show_any_name(tmp_path: Path) -> None:
    names = ("$5_$10", "$100_$200", "猫")
    mistake = Mistake(0, Image.new("RGB", (8, 8)), None)
    write_report(made([0, 1, 2], [1, 0, 2], names=names), tmp_path, title="bills", mistakes=[mistake])
    assert files(tmp_path) == FILES | {"mistakes.png"}


def test_many_classes_are_listed_by_pairs_alone(tmp_path: Path) -> None:
    count = 120
    labels = list(range(count))
    write_report(made(labels, [*labels[1:], 0], names=[f"class{i}" for i in labels]), tmp_path, title="many")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert files(tmp_path) == FILES - {"confusion.png"}
    assert "The most frequent pairs" in page
    assert "too large to draw" in page


def test_a_report_without_mistakes(tmp_path: Path) -> None:
    write_report(made([0, 1], [0, 1]), tmp_path, title="all right")
    assert "All predictions are right" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_nothing_is_written_if_the_model_or_the_folder_cannot_be_used(tmp_path: Path) -> None:
    data = stored(tmp_path / "data", NAMES, NAMES)
    before = sorted(tmp_path.rglob("*"))
    model = Colour(NAMES)
    model.scale.data.fill_(float("nan"))
    with pytest.raises(SSIAZooError, match="NaN"):
        report_model(model, data, tmp_path / "report", title="mine")
    with pytest.raises(ConfigError, match="other files"):
        report_model(model, data, tmp_path / "data", title="mine")
    assert sorted(tmp_path.rglob("*")) == before
