"""Pictures to try."""

from __future__ import annotations

from pathlib import Path

from ssia_zoo.app.examples import write_examples
from ssia_zoo.inference import Classifier, read_image
from ssia_zoo.models.loading import load_model


def test_each_picture_is_classified_as_its_name_says(tmp_path: Path) -> None:
    models = ("mobilenetv3_small_050_ssia.digits_r32", "resnet18_ssia.c10_r32", "resnet18_ssia.tin_r64")
    names = {"ship": "ship", "lemons": "n07749582", "digit 5": "5", "digit 8": "8"}
    classifiers = {model: Classifier(load_model(model)) for model in models}
    found = write_examples(tmp_path, models)
    assert {example.name for example in found} == set(names)
    for example in found:
        classifier = classifiers[example.model]
        image = classifier.prepare(read_image(example.path))[None]
        assert classifier.guesses(classifier.probabilities(image)[0], top=1)[0].label == names[example.name]
        assert example.path.stat().st_size < 100_000


def test_pictures_for_models_that_are_not_offered_are_left_out(tmp_path: Path) -> None:
    assert write_examples(tmp_path, ("resnet18",)) == []
    assert list(tmp_path.iterdir()) == []
