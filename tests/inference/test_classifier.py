"""Classification of image files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from ssia_zoo.errors import ConfigError, WeightError
from ssia_zoo.inference.classifier import Classifier, label_names
from ssia_zoo.inference.explain import explain

PIXELS = np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier(timm.create_model("test_resnet", num_classes=7))


@pytest.fixture
def skipped() -> list[tuple[Path, str]]:
    return []


def image(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 30, 3), dtype=np.uint8)).save(path)
    return path


def test_predictions_are_those_of_timm_with_the_models_own_transform(classifier: Classifier, tmp_path: Path) -> None:
    path = image(tmp_path / "x.png")
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(classifier.model))
    with torch.inference_mode():
        expected = classifier.model(transform(Image.open(path))[None])[0].softmax(0)
    (done,) = classifier.predict([path], pytest.fail, top=3)
    values, indices = expected.topk(3)
    assert [guess.index for guess in done.guesses] == indices.tolist()
    assert [guess.probability for guess in done.guesses] == pytest.approx(values.tolist(), rel=1e-5)


def test_batches_equal_single_images_and_unreadable_files_are_skipped(
    classifier: Classifier, tmp_path: Path, skipped: list
) -> None:
    files = [image(tmp_path / f"{i}.png", seed=i) for i in range(5)]
    files[2].write_bytes(b"damaged")
    together = list(classifier.predict(files, lambda *what: skipped.append(what), top=7, batch_size=3))
    assert [done.path for done in together] == [files[i] for i in (0, 1, 3, 4)]
    assert [path for path, _ in skipped] == [files[2]]
    for done in together:
        assert sum(guess.probability for guess in done.guesses) == pytest.approx(1)
        (alone,) = classifier.predict([done.path], pytest.fail, top=7)
        assert [g.index for g in alone.guesses] == [g.index for g in done.guesses]


def test_top_beyond_the_classes_gives_all_classes(classifier: Classifier, tmp_path: Path) -> None:
    (done,) = classifier.predict([image(tmp_path / "x.png")], pytest.fail, top=100)
    assert len(done.guesses) == 7


@pytest.mark.parametrize("numbers", [{"top": 0}, {"batch_size": 0}, {"batch_size": -1}, {"workers": -1}])
def test_numbers_that_are_too_low_are_errors_before_any_image_is_read(
    classifier: Classifier, numbers: dict[str, int]
) -> None:
    with pytest.raises(ConfigError, match=r"`(top|batch_size|workers)` is .*at least"):
        classifier.predict([], pytest.fail, **numbers)


def test_only_classifiers_of_one_three_or_four_channels_are_accepted() -> None:
    with pytest.raises(ConfigError, match="no classifier"):
        Classifier(timm.create_model("test_resnet", num_classes=0))
    with pytest.raises(ConfigError, match="2 channels; expected 1"):
        Classifier(timm.create_model("test_resnet", in_chans=2))


@pytest.mark.parametrize("overlay", [{}, {"input_size": (1, 64, 64), "mean": (0.5,), "std": (0.25,)}])
def test_a_model_of_one_channel_gets_grey_images(tmp_path: Path, overlay: dict[str, object]) -> None:
    model = timm.create_model("test_resnet", pretrained_cfg_overlay=overlay, in_chans=1)
    classifier = Classifier(model)
    coloured = Image.open(image(tmp_path / "x.png")).convert("RGB")
    prepared = classifier.prepare(coloured)
    assert prepared.shape == classifier.input_size == (1, *model.pretrained_cfg["input_size"][1:])
    assert torch.equal(prepared, classifier.prepare(coloured.convert("L").convert("RGB")))
    assert len(list(classifier.predict([tmp_path / "x.png"], pytest.fail))) == 1
    assert explain("grey", classifier, coloured).pixels.shape[2] == 3


def test_class_names_are_the_models_or_imagenets_or_numbers() -> None:
    named = timm.create_model("test_resnet", num_classes=2, pretrained_cfg_overlay={"label_names": ("cat", "dog")})
    assert label_names(named) == ("cat", "dog")
    for mapping in ({0: "cat", 1: "dog"}, {"1": "dog", "0": "cat"}):  # timm allows it, JSON makes its keys strings
        named.pretrained_cfg["label_names"] = mapping
        assert label_names(named) == ("cat", "dog")
    assert label_names(timm.create_model("test_resnet"))[1].startswith("goldfish")
    assert label_names(timm.create_model("test_resnet", num_classes=3)) == ("class 0", "class 1", "class 2")


def test_outputs_that_are_not_finite_are_an_error(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet", num_classes=2)
    with torch.no_grad():
        model.get_classifier().bias[1] = torch.nan
    path = image(tmp_path / "x.png")
    with pytest.raises(WeightError, match=r"NaN or infinite, first for .*x\.png"):
        list(Classifier(model).predict([path], pytest.fail))


def test_the_description_changes_with_weights_and_preprocessing(classifier: Classifier) -> None:
    def description(seed: int = 0, **overlay: object) -> dict[str, str]:
        torch.manual_seed(seed)
        return Classifier(timm.create_model("test_resnet", num_classes=7, pretrained_cfg_overlay=overlay)).describe()

    assert description() == classifier.describe()
    assert description(seed=1)["sha256"] != description()["sha256"]
    other = description(crop_pct=0.5)
    assert other["sha256"] == description()["sha256"]
    assert other["preprocessing"] != description()["preprocessing"]
