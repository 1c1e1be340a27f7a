"""A run resumes with its own data and preprocessing, or is refused with what changed."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from ssia_zoo.errors import TrainingError
from ssia_zoo.training import parse_config, train
from ssia_zoo.training.checkpoint import list_checkpoints, read_manifest
from ssia_zoo.training.resuming import check_data
from tests.helpers.runs import same_weights, small_run

COLOURS = {"bird": "red", "cat": "green", "dog": "blue"}
IDENTITY = {
    "label_names": ["cat", "dog"],
    "train_images": 10,
    "eval_images": 4,
    "train_digest": "a",
    "eval_digest": "b",
}
EXPERIMENT = {"interpolation": "bilinear", "crop_pct": 0.9, "crop_mode": "squash", "ssia": {"weight": 2.0}}


def pictures(folder: Path) -> Path:
    for split, count in (("train", 8), ("test", 3)):
        for name, colour in COLOURS.items():
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                image = Image.new("RGB", (32, 32), colour)
                image.putpixel((0, 0), (number, number, number))
                image.save(folder / split / name / f"{number}.png")
    return folder


def trained(folder: Path, data: Path, **settings: Any) -> Any:
    limits = {"max_train_images": 24, "max_eval_images": 9}
    return small_run(folder, dataset=data, batch_size=8, **{"epochs": 1, **limits, **settings})


def rename(data: Path) -> None:
    for split in ("train", "test"):
        (data / split / "bird").rename(data / split / "zebra")


def add_class(data: Path) -> None:
    for split in ("train", "test"):
        shutil.copytree(data / split / "bird", data / split / "ox")


def remove_image(data: Path) -> None:
    (data / "train" / "cat" / "0.png").unlink()


def swap_image(data: Path) -> None:
    Image.effect_noise((32, 32), 50).save(data / "train" / "cat" / "0.png")


def relabel(data: Path) -> None:
    (data / "train" / "cat" / "0.png").rename(data / "train" / "dog" / "x.png")


def change_evaluation(data: Path) -> None:
    (data / "test" / "cat" / "0.png").unlink()


CHANGES: dict[Callable[[Path], None], str] = {
    rename: "classes removed: bird; classes added: zebra",
    add_class: "classes added: ox",
    remove_image: r"training images \(24 -> 23\)",
    swap_image: "training images .still 24, but other names, sizes or labels",
    relabel: "training images .still 24, but other names, sizes or labels",
    change_evaluation: r"evaluation images \(9 -> 8\)",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_resume_on_other_data_is_refused_with_what_changed(
    tmp_path: Path, change: Callable[[Path], None], datasets_cache: None
) -> None:
    data = pictures(tmp_path / "data")
    trained(tmp_path / "run", data)
    before = (tmp_path / "run" / "config.json").read_bytes()
    limits = {"max_train_images": 24, "max_eval_images": 9}
    change(data)
    with pytest.raises(TrainingError, match=CHANGES[change]) as caught:
        trained(tmp_path / "run", data, resume="auto", **limits)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "run" / "config.json").read_bytes() == before


def test_a_resume_on_the_same_data_elsewhere_goes_on(tmp_path: Path, datasets_cache: None) -> None:
    data = pictures(tmp_path / "data")
    trained(tmp_path / "run", data)
    (checkpoint,) = list_checkpoints(tmp_path / "run" / "checkpoints")
    noted = read_manifest(checkpoint)["data"]
    assert noted["label_names"] == ["bird", "cat", "dog"]
    assert (noted["train_images"], noted["eval_images"]) == (24, 9)
    trained(tmp_path / "run", data, resume="auto")


def test_each_difference_of_data_is_named() -> None:
    manifest = {"experiment": EXPERIMENT, "data": IDENTITY}
    check_data(manifest, EXPERIMENT, IDENTITY)
    for change, message in (
        ({"label_names": ["dog", "cat"]}, "classes in another order: dog, cat"),
        ({"eval_digest": "c"}, "evaluation images .still 4"),
        ({"train_images": 11, "train_digest": "c"}, r"training images \(10 -> 11\)"),
    ):
        with pytest.raises(TrainingError, match=message):
            check_data(manifest, EXPERIMENT, IDENTITY | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [({name: "other"}, rf"{name} \({before} -> other\)") for name, before in EXPERIMENT.items() if name != "ssia"]
    + [({"ssia": {"weight": 0.5}}, r"ssia\.weight \(2\.0 -> 0\.5\)")],
)
def test_each_difference_in_what_depends_on_the_model_is_named(change: dict[str, Any], message: str) -> None:
    manifest = {"experiment": EXPERIMENT, "data": IDENTITY}
    with pytest.raises(TrainingError, match=message):
        check_data(manifest, EXPERIMENT | change, IDENTITY)


def test_a_checkpoint_without_a_description_of_its_data_resumes_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    older = {"interpolation": "bilinear", "crop_pct": 0.9}
    check_data({"experiment": older}, EXPERIMENT | {"crop_mode": "center"}, IDENTITY)
    assert "does not describe its data" in caplog.text
    with pytest.raises(TrainingError, match="crop_mode"):
        check_data({"experiment": older}, EXPERIMENT, IDENTITY)


def test_the_preprocessing_is_recorded_and_the_same_with_and_without_its_flags(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ssia_zoo")
    scratch = small_run(tmp_path / "scratch", max_steps=1, crop_mode="squash").folder
    assert "preprocessing (the defaults" in caplog.text
    described = json.loads((scratch / "config.json").read_text())
    for place in (described["pretrained_cfg"], described["ssia"]["training"]):
        assert (place["interpolation"], place["crop_pct"], place["crop_mode"]) == ("bicubic", 1.0, "squash")

    described["pretrained_cfg"] |= {"interpolation": "bilinear", "crop_pct": 0.8}
    (scratch / "config.json").write_text(json.dumps(described))
    tuned: dict[str, Any] = {"model": f"local-dir:{scratch}", "pretrained": True, "max_steps": 1}
    folder = small_run(tmp_path / "tuned", **tuned).folder
    own = {"interpolation": "bilinear", "crop_pct": 0.8, "crop_mode": "squash"}
    described = json.loads((folder / "config.json").read_text())
    for place in (described["pretrained_cfg"], described["ssia"]["training"]):
        assert {name: place[name] for name in own} == own
    small_run(folder, **tuned, resume="auto")
    small_run(folder, **tuned, **own, resume="auto")
    with pytest.raises(TrainingError, match=r"crop_pct \(0.8 -> 0.7\)"):
        small_run(folder, **tuned, crop_pct=0.7, resume="auto")


def test_the_resolved_settings_repeat_the_run(tmp_path: Path) -> None:
    small_run(tmp_path / "run", lr=2e-3)
    settings = yaml.safe_load((tmp_path / "run" / "train_config.yaml").read_text())
    assert settings["lr"] == 2e-3
    again = ["--config", str(tmp_path / "run" / "train_config.yaml"), "--output-dir", str(tmp_path / "again")]
    train(parse_config(again))
    assert same_weights(tmp_path / "run", tmp_path / "again")
