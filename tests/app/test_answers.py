"""A model's answer to a picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import timm
import torch

from ssia_zoo.app.answers import answer, open_picture, readable, share, where
from ssia_zoo.app.config import AppConfig
from ssia_zoo.app.examples import digit
from ssia_zoo.errors import ConfigError, DataError, WeightError
from ssia_zoo.inference import Classifier
from ssia_zoo.models.label_names import set_problem_type
from ssia_zoo.models.loading import load_model
from tests.helpers.commands import WEIGHT


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier(load_model(WEIGHT))


def write_nothing(path: Path) -> None:
    path.touch()


def write_damaged(path: Path) -> None:
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + 100 * b"x")


def write_large(path: Path) -> None:
    path.write_bytes(bytes(2**20 + 1))


def write_many_pixels(path: Path) -> None:
    PIL.Image.new("RGB", (1001, 1000)).save(path)


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (write_nothing, "the file is empty"),
        (write_damaged, "not an image, or damaged"),
        (write_large, "the file has 1.0 MB, but `max_megabytes` is 1"),
        (write_many_pixels, "1001x1000 pixels, but `max_pixels` is 1000000"),
    ],
)
def test_a_file_that_cannot_be_shown_is_refused_in_one_sentence(
    write: Callable[[Path], None], expected: str, tmp_path: Path
) -> None:
    write(tmp_path / "picture.png")
    with pytest.raises(DataError) as refused:
        open_picture(tmp_path / "picture.png", AppConfig(max_megabytes=1, max_pixels=1_000_000))
    assert expected in str(refused.value)
    assert str(tmp_path) not in str(refused.value)


def test_a_large_jpeg_is_reduced(tmp_path: Path) -> None:
    PIL.Image.new("RGB", (1200, 1000)).save(tmp_path / "picture.jpg")
    assert open_picture(tmp_path / "picture.jpg", AppConfig(max_pixels=1_000_000)).size == (600, 500)


def test_an_answer_has_classes_maps_and_changes(classifier: Classifier) -> None:
    found = answer(WEIGHT, classifier, digit(5))
    assert found.guesses[0].label == "5"
    assert len(found.guesses) == 5
    assert [panel.title for panel in found.maps] == ["input", "stage 1", "stage 2", "stage 3", "stage 4", "class map"]
    assert [panel.title for panel in found.changes] == ["as it is", "cropped", "in grey", "mirrored"]
    panels = [*found.maps, *found.changes]
    assert all(panel.alt for panel in panels)
    assert len({panel.alt for panel in panels}) == len(panels)
    assert {panel.picture.size for panel in panels} == {(240, 240)}
    assert found.remark == ""


def test_a_change_is_classified_as_the_changed_picture_is(classifier: Classifier) -> None:
    mirrored = digit(5).transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)
    first = answer(WEIGHT, classifier, mirrored).guesses[0]
    change = answer(WEIGHT, classifier, digit(5)).changes[3]
    assert change.changed == (first.label != "5")
    assert change.notes[0].endswith(f"“{first.label}” {share(first.probability)}")


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("size", [(1, 1), (3, 500)])
def test_pictures_of_any_mode_and_shape_are_answered(mode: str, size: tuple[int, int], classifier: Classifier) -> None:
    assert answer(WEIGHT, classifier, PIL.Image.new(mode, size)).guesses


def test_a_model_without_stages_is_answered_without_maps(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ConfigError("Mixer has too few stages")

    monkeypatch.setattr("ssia_zoo.app.answers.explain", refuse)
    found = answer(WEIGHT, classifier, digit(5))
    assert found.guesses[0].label == "5"
    assert (found.maps, found.remark) == ((), "No maps: Mixer has too few stages.")


def test_a_model_of_several_labels_shows_those_from_its_threshold_on() -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=3)
    torch.nn.init.zeros_(model.get_classifier().weight)
    model.get_classifier().bias.data = torch.tensor([4.0, -4.0, 1.0])
    set_problem_type(model, {"problem_type": "multi_label_classification", "threshold": 0.5})
    found = answer("several", Classifier(model), digit(5))
    assert [guess.index for guess in found.guesses] == [0, 2]
    model.get_classifier().bias.data -= 9
    assert "No class reaches" in answer("several", Classifier(model), digit(5)).remark


def test_a_damaged_model_is_refused() -> None:
    model = timm.create_model("test_resnet", num_classes=3)
    model.get_classifier().bias.data += torch.nan
    with pytest.raises(WeightError, match="NaN or infinite"):
        answer("damaged", Classifier(model), digit(5))


@pytest.mark.parametrize(
    ("position", "expected"),
    [((0, 0), "at the upper left"), ((1, 1), "in the centre"), ((2, 1), "at the bottom"), ((1, 2), "at the right")],
)
def test_the_largest_value_is_described(position: tuple[int, int], expected: str) -> None:
    values = np.zeros((3, 3), dtype=np.float32)
    values[position] = 1
    assert where(values) == expected


def test_wordnet_ids_become_words() -> None:
    assert readable("n07749582") == "lemon"
    assert readable("n99999999") == "n99999999"
    assert readable("night") == "night"


def test_small_probabilities_are_not_zero() -> None:
    assert share(0.0001).startswith("<0.1")
    assert share(0.0).startswith("0.0")


def test_a_strip_that_would_become_too_large_is_refused_in_one_sentence(classifier: Classifier) -> None:
    with pytest.raises(DataError, match=r"the picture is too narrow: .* 1x3000 pixels become 32x96000"):
        answer(WEIGHT, classifier, PIL.Image.new("RGB", (1, 3000)), 10_000)
