"""JSON files of published weights: what is accepted, and how errors are reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ssia_zoo.errors import ConfigError
from ssia_zoo.models.weight import read_published_weight, read_published_weights
from ssia_zoo.resources import resource_dir
from ssia_zoo.training.arguments import read_config
from ssia_zoo.training.config import with_defaults

NAME = "mobilenetv3_small_050_ssia.digits_r32"


@pytest.fixture
def entry() -> dict[str, Any]:
    return json.loads((resource_dir("hub_configs") / f"{NAME}.json").read_text())


def write(folder: Path, entry: object, name: str = NAME) -> Path:
    path = folder / f"{name}.json"
    path.write_text(entry if isinstance(entry, str) else json.dumps(entry))
    return path


def test_every_shipped_description_is_valid_and_its_training_settings_are_accepted() -> None:
    configs = read_published_weights(resource_dir("hub_configs"))
    assert configs
    for config in configs:
        settings = read_config(config.name)
        assert settings.decisive_settings() == with_defaults(config.training)
        assert settings.method == "ssia"
        assert settings.seed == config.metrics.seed


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("num_classes", "10", "num_classes"),
        ("num_classes", 0, "num_classes"),
        ("label_names", ["a"], "label_names"),
        ("input_size", [3, 32], "input_size"),
        ("input_size", [3, 0, 32], "input_size"),
        ("std", [0.2, 0.0, 0.2], "std"),
        ("crop_pct", 1.5, "crop_pct"),
        ("tag", "digits/../r32", "tag"),
        ("architecture", "resnet50", "architecture"),
        ("file", "../weights.safetensors", "file"),
        ("file", "weights.bin", "file"),
        ("file", None, "file"),
        ("sha256", "abc", "sha256"),
        ("sha256", None, "sha256"),
        ("repo_id", "org/name", "repo_sha256"),
        ("dataset", {"name": "digits"}, "dataset"),
        ("metrics", {}, "metrics"),
        ("default", "yes", "default"),
        ("default", 1, "default"),
        ("crop_pct", True, "crop_pct"),
        ("interpolation", "cubic", "interpolation"),
        ("crop_mode", "fit", "crop_mode"),
        ("label_names", ["a"] * 9 + [1], r"label_names\[9\]"),
        ("environment", {"torch": 2}, r"environment\.torch"),
        ("revision", "main", "revision"),
        ("surprise", 1, "surprise"),
    ],
)
def test_an_error_names_file_and_field(
    tmp_path: Path, entry: dict[str, Any], field: str, value: object, named: str
) -> None:
    path = write(tmp_path, {**entry, field: value})
    with pytest.raises(ConfigError, match=named) as caught:
        read_published_weight(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("top1", [-1, 101, float("nan")])
def test_metrics_that_are_not_percentages_are_refused(tmp_path: Path, entry: dict[str, Any], top1: float) -> None:
    entry["metrics"]["top1"] = top1
    with pytest.raises(ConfigError, match=r"metrics\.top1"):
        read_published_weight(write(tmp_path, entry))


def test_the_published_seed_must_be_among_the_runs(tmp_path: Path, entry: dict[str, Any]) -> None:
    entry["metrics"]["seed"] = 99
    with pytest.raises(ConfigError, match="seed 99"):
        read_published_weight(write(tmp_path, entry))


@pytest.mark.parametrize("field", ["architecture", "license", "metrics", "training"])
def test_a_missing_field_is_named(tmp_path: Path, entry: dict[str, Any], field: str) -> None:
    del entry[field]
    with pytest.raises(ConfigError, match=field):
        read_published_weight(write(tmp_path, entry))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", "\x00", "[" * 100_000])
def test_only_a_json_object_is_accepted(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=NAME):
        read_published_weight(write(tmp_path, text))


def test_an_architecture_has_exactly_one_default(tmp_path: Path, entry: dict[str, Any]) -> None:
    write(tmp_path, entry)
    write(tmp_path, {**entry, "tag": "other_r32"}, "mobilenetv3_small_050_ssia.other_r32")
    with pytest.raises(ConfigError, match="default"):
        read_published_weights(tmp_path)
    write(tmp_path, {**entry, "tag": "other_r32", "default": False}, "mobilenetv3_small_050_ssia.other_r32")
    assert len(read_published_weights(tmp_path)) == 2
