"""The comparison of two models or of their stored answers, and its page."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import timm
import torch

from ssia_zoo.data import DataConfig
from ssia_zoo.errors import ClassesError, DataError
from ssia_zoo.evaluation.answers import write_answers
from ssia_zoo.report import report_model
from ssia_zoo.report.comparison import NAMES as FILES
from ssia_zoo.report.comparison import compare, verdict
from tests.helpers.answers import made
from tests.helpers.colours import NAMES, Colour, stored
from tests.report.test_validation import assert_self_contained, files


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    return save(tmp_path / "model", NAMES)


def save(folder: Path, label_names: list[str] | None, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    model = timm.create_model("test_resnet", num_classes=3)
    config = {"label_names": label_names} if label_names else {}
    timm.models.save_for_hf(model, folder, model_config=config, safe_serialization=True)
    return folder


def stored_answers(folder: Path, predicted: list[int]) -> str:
    folder.mkdir()
    write_answers(made([0, 0, 1, 1], predicted), folder / "per_image.parquet")
    return str(folder)


def test_stored_answers_are_compared_without_the_data(tmp_path: Path) -> None:
    a, b = stored_answers(tmp_path / "a", [0, 1, 0, 1]), stored_answers(tmp_path / "b", [0, 0, 0, 1])
    result = compare(a, f"{b}/per_image.parquet", folder=tmp_path / "out")
    assert (result.a_top1, result.b_top1) == (50, 75)
    assert verdict(result) == "no difference shown: the interval includes zero"
    assert files(tmp_path / "out") == set(FILES)
    page = (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    assert_self_contained(page)
    assert "no difference shown" in page
    assert "No pictures" in page
    document = json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))
    assert (document["difference"], document["seed"], document["only_b"]) == (25, 0, 1)
    with (tmp_path / "out" / "differences.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["image"], row["label"], row["a"], row["b"]) == ("1.png", "a", "b", "a")


def test_tables_without_rows_have_a_header(tmp_path: Path) -> None:
    a, b = stored_answers(tmp_path / "a", [0, 1, 0, 1]), stored_answers(tmp_path / "b", [0, 1, 0, 1])
    compare(a, b, folder=tmp_path / "out")
    header = "row,image,label,a,b,a_probability,b_probability\n"
    assert (tmp_path / "out" / "differences.csv").read_text(encoding="utf-8") == header


def test_a_model_is_compared_with_a_report_and_pictures_are_drawn(tmp_path: Path, model_folder: Path) -> None:
    data = stored(tmp_path / "data", ["blue", "red", "green"], NAMES)
    data = DataConfig(data.dataset, batch_size=4, workers=0, image_size=32)
    other = save(tmp_path / "other", NAMES, seed=1)
    first = compare(str(model_folder), str(other), data, tmp_path / "out")
    page = (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    assert_self_contained(page)
    assert page.count('alt="image"') == first.only_a + first.only_b
    assert page.count('alt="where the model looked"') == 2 * (first.only_a + first.only_b)
    assert "test of " in page
    assert compare(str(model_folder), str(model_folder), data).difference == 0


def test_reports_are_compared_with_pictures_if_the_data_is_given(tmp_path: Path) -> None:
    data = stored(tmp_path / "data", NAMES, NAMES)
    wrong = Colour(NAMES)
    wrong.scale.data.fill_(-1)
    for name, model in (("right", Colour(NAMES)), ("wrong", wrong)):
        report_model(model, data, tmp_path / name, title=name)
    result = compare(str(tmp_path / "wrong"), str(tmp_path / "right"), data, tmp_path / "out")
    assert (result.a_top1, result.b_top1, result.shown) == (0, 100, True)
    page = (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    assert "B is better on these images" in page
    assert page.count('alt="image"') == 6
    assert "where the model looked" not in page


def test_models_whose_classes_have_no_names_are_refused(tmp_path: Path, model_folder: Path) -> None:
    data = stored(tmp_path / "data", NAMES, NAMES)
    with pytest.raises(ClassesError, match="unnamed: the model has no names for its classes"):
        compare(str(model_folder), str(save(tmp_path / "unnamed", None)), data)


def test_answers_to_other_data_are_refused(tmp_path: Path) -> None:
    data = stored(tmp_path / "data", NAMES, NAMES)
    a, b = stored_answers(tmp_path / "a", [0, 1, 0, 1]), stored_answers(tmp_path / "b", [0, 0, 0, 1])
    with pytest.raises(DataError, match="the answers are not to test of "):
        compare(a, b, data, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match="holds no answers; set `dataset`"):
        compare(a, "resnet18")
