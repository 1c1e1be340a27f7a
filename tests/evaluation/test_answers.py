"""A model's answers: collected for each readable image, refused where they mean nothing, stored and read again."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from ssia_zoo.errors import DataError, WeightError
from ssia_zoo.evaluation.answers import _class_names, collect_answers, read_answers, write_answers
from ssia_zoo.evaluation.validate import prepare_evaluation, validate
from tests.helpers.answers import made
from tests.helpers.colours import NAMES, Colour, stored
from tests.helpers.data_folders import IMAGE, encoded, parquet, pictures, rows


def test_answers_are_those_that_validate_counts(tmp_path: Path) -> None:
    model = Colour([*NAMES, "ever", "always"], extra=2)
    config = stored(tmp_path / "data", ["blue", "red", "green"], NAMES)
    model.scale.data.fill_(-1)  # all wrong
    evaluation = prepare_evaluation(model, config)
    answers = collect_answers(model, evaluation.loader, outputs=evaluation.outputs)
    result = validate(model, config)
    assert answers.class_names == ("blue", "red", "green")
    assert [answers.class_names[label] for label in answers.labels] == [name for name in NAMES for _ in range(2)]
    assert answers.correct.mean() * 100 == result["top1"] == 0
    assert answers.loss.mean() == pytest.approx(result["loss"], rel=1e-6)
    assert answers.in_top5.all()
    assert answers.images[1] == "row 1"
    np.testing.assert_allclose(answers.label_probability, np.exp(-answers.loss))


def test_images_have_their_names_and_rows_of_the_full_split_and_unreadable_ones_are_left_out(tmp_path: Path) -> None:
    images = [{"bytes": encoded(picture), "path": f"{i}.png"} for i, picture in enumerate(pictures(6))]
    images[2]["bytes"] = b"damaged"
    labels = datasets.ClassLabel(names=NAMES)
    part = rows({"image": images, "label": [0, 1, 2] * 2}, image=IMAGE, label=labels)
    config = parquet(tmp_path / "data", test=part)
    config = type(config)(**{**config.__dict__, "max_corrupt": 0.5, "max_eval_images": 5})
    evaluation = prepare_evaluation(Colour(NAMES), config)
    answers = collect_answers(evaluation.model, evaluation.loader, outputs=evaluation.outputs)
    assert len(answers) + answers.unreadable == 5
    assert answers.images == tuple(f"{row}.png" for row in answers.rows)
    assert answers.labels.tolist() == [row % 3 for row in answers.rows]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_refused(bad: float, tmp_path: Path) -> None:
    model = Colour(NAMES)
    evaluation = prepare_evaluation(model, stored(tmp_path / "data", NAMES, NAMES))
    model.scale.data.fill_(bad)
    with pytest.raises(WeightError, match=r"NaN or infinite for 6 of 6 images, such as row 0"):
        collect_answers(model, evaluation.loader)


def test_no_readable_image_is_refused(tmp_path: Path) -> None:
    labels = datasets.ClassLabel(names=NAMES)
    part = rows({"image": [{"bytes": b"x", "path": None}] * 2, "label": [0, 1]}, image=IMAGE, label=labels)
    config = parquet(tmp_path / "data", test=part)
    evaluation = prepare_evaluation(Colour(NAMES), type(config)(**{**config.__dict__, "max_corrupt": 1.0}))
    with pytest.raises(DataError, match="none of the 2 images can be read"):
        collect_answers(evaluation.model, evaluation.loader)


@pytest.mark.parametrize(
    ("feature", "labels", "message"),
    [
        (datasets.List(datasets.Value("int64")), [[0, 1]], "List; expected one class per image"),
        (datasets.ClassLabel(names=["only"]), [0], "only the class 'only'"),
    ],
)
def test_several_labels_an_image_and_a_single_class_are_refused(
    feature: object, labels: list[object], message: str
) -> None:
    reader = SimpleNamespace(rows=rows({"label": labels}, label=feature), label_column="label")
    with pytest.raises(DataError, match=message):
        _class_names(reader)


def test_stored_answers_are_read_again(tmp_path: Path) -> None:
    answers = made([0, 0, 2], [0, 2, 2])
    path = tmp_path / "per_image.parquet"
    write_answers(answers, path)
    for again in (read_answers(path), read_answers(tmp_path)):
        for name, value in vars(answers).items():
            np.testing.assert_array_equal(getattr(again, name), value)
    table = pq.read_table(path)
    assert table["label"].to_pylist() == ["a", "a", "c"]
    assert table["predicted"].to_pylist() == ["a", "c", "c"]


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("text")
    pq.write_table(pq.ParquetFile(_other(tmp_path)).read(), tmp_path / "other.parquet")
    for name in ("text.parquet", "other.parquet", "missing.parquet"):
        with pytest.raises(DataError, match=f"{name} is no per_image.parquet") as refused:
            read_answers(tmp_path / name)
        assert "\n" not in str(refused.value)


def _other(folder: Path) -> Path:
    rows({"label": [0]}, label=datasets.Value("int64")).to_parquet(folder / "data.parquet")
    return folder / "data.parquet"


def test_the_model_is_left_in_its_mode(tmp_path: Path) -> None:
    model = Colour(NAMES).train()
    evaluation = prepare_evaluation(model, stored(tmp_path / "data", NAMES, NAMES))
    collect_answers(model, evaluation.loader)
    assert model.training
    assert torch.is_grad_enabled()
