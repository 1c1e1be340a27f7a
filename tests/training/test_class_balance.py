"""Weights of the classes: by frequency or from a file, in every task loss, recorded, refused where they are wrong."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from ssia_zoo.data import ImageData, load_image_data
from ssia_zoo.errors import ConfigError, SSIAZooError, TrainingError
from ssia_zoo.loss import ClassWeightedLoss, SSIAConfig
from ssia_zoo.training import parse_config
from ssia_zoo.training.class_balance import class_weights, report_imbalance
from ssia_zoo.training.config import TrainConfig
from ssia_zoo.training.methods import build_criterion, create_task
from tests.helpers.data_folders import image_folder
from tests.helpers.runs import flags, same_weights, small_run

pytestmark = pytest.mark.usefixtures("datasets_cache")
PETS = {"cat": 30, "dog": 3, "eel": 12}
SHORT: dict[str, Any] = {"batch_size": 8, "max_steps": 2, "image_size": 32}


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("data") / "pets"
    return image_folder(folder, train=PETS, test=dict.fromkeys(PETS, 1)).dataset


@pytest.fixture(scope="module")
def data(pets: str) -> ImageData:
    return load_image_data(TrainConfig(dataset=pets))


@pytest.mark.covers("class_weights")
def test_auto_is_the_inverse_of_the_frequency_with_mean_one_over_the_images(pets: str, data: ImageData) -> None:
    weights = class_weights(TrainConfig(dataset=pets, class_weights="auto"), data)
    assert weights is not None
    counts = torch.tensor(list(PETS.values()))
    torch.testing.assert_close(weights * counts, (weights * counts)[[0, 0, 0]])
    torch.testing.assert_close((weights * counts).sum() / counts.sum(), torch.tensor(1.0))
    assert class_weights(TrainConfig(dataset=pets), data) is None


FILES = {
    "weights.csv": "class,weight\neel,2\ncat,0.5\ndog,3\n",
    "excel.csv": "\ufeffcat,0.5\ndog,3\neel,2\n",
    "weights.json": '{"dog": 3, "cat": 0.5, "eel": 2}',
    "weights.yaml": "dog: 3\ncat: .5\neel: 2.0\n",
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_gives_weights_by_class_name(pets: str, data: ImageData, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FILES[name], encoding="utf-8")
    weights = class_weights(TrainConfig(dataset=pets, class_weights=str(tmp_path / name)), data)
    assert weights is not None
    assert weights.tolist() == [0.5, 3.0, 2.0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.csv", "cat,1\ndog,1\n", "1 of 3 classes have no weight: eel"),
        ("w.csv", "cat,1\ndog,1\neal,1\n", "'eal' is not a class; did you mean eel?"),
        ("w.csv", "cat,1\ndog,-1\neel,1\n", "'dog' has the weight -1; expected a number of 0 or more"),
        ("w.csv", "cat,1\ndog,nan\neel,1\n", "'dog' has the weight nan"),
        ("w.csv", "cat,one\ndog,1\neel,1\n", "'cat' has the weight one"),
        ("w.csv", "cat,1\ncat,1\n", "'cat' has two weights"),
        ("w.csv", "cat,1,2\n", "'cat,1,2' has 3 columns, expected class,weight"),
        ("w.csv", "cat,0\ndog,0\neel,0\n", "all weights are 0"),
        ("w.csv", "", "3 of 3 classes have no weight: cat, dog, eel"),
        ("w.json", "[1, 2]", 'expected {"class": weight, ...}'),
        ("w.json", '{"cat": true}', "'cat' has the weight True"),
        ("w.json", '{"cat": 1, "cat": 2}', "'cat' has two weights"),
        ("w.json", "{", "is not a list of classes and weights"),
        ("w.yaml", "cat: [1]\ndog: 1\neel: 1", "'cat' has the weight"),
        ("w.yaml", "cat", "expected lines of class: weight"),
        ("w.yaml", "cat: [", "is not a list of classes and weights"),
        ("w.txt", "cat 1", "the suffix is '.txt', expected .csv, .json or .yaml"),
        ("absent.csv", None, "cannot be read (No such file or directory); expected auto, or a CSV"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(
    pets: str, data: ImageData, tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        class_weights(TrainConfig(dataset=pets, class_weights=str(path)), data)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"`class_weights` {path}: ")
    assert "\n" not in str(caught.value)


LOSSES: dict[str, dict[str, Any]] = {
    "plain": {},
    "smoothed": {"smoothing": 0.1},
    "mixed": {"mixup": 0.2},
    "mixed and smoothed": {"cutmix": 1.0, "smoothing": 0.1},
    "bce": {"bce_loss": True},
    "bce, summed": {"bce_loss": True, "bce_sum": True, "smoothing": 0.1},
    "bce, mixed": {"bce_loss": True, "mixup": 0.2, "smoothing": 0.1, "bce_target_thresh": 0.2},
}


@pytest.mark.parametrize("name", LOSSES)
def test_equal_weights_are_timms_own_loss_and_others_count_images_so_often(name: str) -> None:
    config = TrainConfig(**LOSSES[name])
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(4, 3, generator=generator), torch.tensor([0, 1, 2, 2])
    target = labels
    if config.mixup or config.cutmix:
        on = torch.nn.functional.one_hot(labels, 3) * 0.6 + torch.nn.functional.one_hot(labels.flip(0), 3) * 0.4
        target = (1 - config.smoothing) * on + config.smoothing / 3
    timms = build_criterion(config)
    torch.testing.assert_close(build_criterion(config, torch.ones(3))(logits, target), timms(logits, target))
    if target.dim() == 1:
        twice = torch.tensor([0, 1, 1, 2, 3])  # the image of class 1
        weighted = build_criterion(config, torch.tensor([1.0, 2.0, 1.0]))(logits, target)
        torch.testing.assert_close(weighted * 4, timms(logits[twice], labels[twice]) * 5)


@pytest.mark.parametrize("method", ["ssia", "dsn"])
def test_heads_that_learn_labels_have_the_weights_too(method: str) -> None:
    weights = torch.tensor([1.0, 2.0, 3.0])
    config = TrainConfig(method=method, ssia=SSIAConfig(labels=1.0))
    task = create_task(timm.create_model("test_resnet", num_classes=3), config, (3, 64, 64), class_weights=weights)
    assert isinstance(task.trainable_module.criterion, ClassWeightedLoss)
    assert task.criterion is task.trainable_module.criterion


def test_a_run_trains_with_its_weights_and_publishes_them_without_a_path(pets: str, tmp_path: Path) -> None:
    private = tmp_path / "private" / "weights.csv"
    private.parent.mkdir()
    private.write_text("cat,1\ndog,10\neel,0.5\n")
    plain = small_run(tmp_path / "plain", dataset=pets, **SHORT)
    weighted = small_run(tmp_path / "weighted", dataset=pets, class_weights=private, **SHORT)
    assert not same_weights(plain.folder, weighted.folder)
    assert "class_weights" not in json.loads((plain.folder / "config.json").read_text())["ssia"]
    written = (weighted.folder / "config.json").read_text()
    described = json.loads(written)["ssia"]
    assert described["class_weights"] == {"cat": 1.0, "dog": 10.0, "eel": 0.5}
    assert described["training"]["class_weights"] == "weights.csv"
    assert "private" not in written + (weighted.folder / "README.md").read_text()
    private.write_text("cat,1\ndog,9\neel,0.5\n")
    with pytest.raises(TrainingError, match="the weights of `class_weights`"):
        small_run(tmp_path / "weighted", dataset=pets, class_weights=private, resume="auto", **SHORT)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_weights": "auto", "balanced_sampling": True}, "`class_weights` auto and `balanced_sampling` both"),
        ({"class_weights": "auto", "streaming": True}, "`class_weights` auto needs all labels before training"),
    ],
    ids=["balanced", "stream"],
)
def test_what_cannot_be_combined_is_one_line(pets: str, tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SSIAZooError, match=message) as caught:
        small_run(tmp_path / "run", dataset=pets, **SHORT, **settings)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "run").glob("*"))


def test_a_stream_takes_a_file(pets: str, tmp_path: Path) -> None:
    (tmp_path / "w.json").write_text(FILES["weights.json"])
    result = small_run(tmp_path / "run", dataset=pets, streaming=True, class_weights=tmp_path / "w.json", **SHORT)
    assert json.loads((result.folder / "config.json").read_text())["ssia"]["class_weights"]["dog"] == 3


@pytest.mark.parametrize(
    ("settings", "lines"), [({}, 1), ({"class_weights": "auto"}, 0), ({"balanced_sampling": True}, 0)], ids=str
)
def test_uneven_classes_are_named_once_unless_something_is_done(
    pets: str, data: ImageData, caplog: pytest.LogCaptureFixture, settings: dict[str, Any], lines: int
) -> None:
    config = parse_config(flags(output_dir="unused", dataset=pets, **settings))
    with caplog.at_level(logging.INFO, "ssia_zoo"):
        report_imbalance(config, data)
    assert [record.getMessage() for record in caplog.records] == [
        "classes are uneven: 30 training images of cat, 3 of dog; `balanced_sampling` or `class_weights` auto gives "
        "all classes the same share of the training"
    ] * lines


def test_nearly_even_classes_are_not_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    nearly = load_image_data(image_folder(tmp_path, train={"a": 9, "b": 1}, test={"a": 1, "b": 1}))
    caplog.clear()
    with caplog.at_level(logging.INFO, "ssia_zoo"):
        report_imbalance(TrainConfig(), nearly)
    assert not caplog.records
