"""The models and reports that the page offers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import ssia_zoo
from ssia_zoo.app.catalog import make_catalog
from ssia_zoo.app.config import AppConfig
from ssia_zoo.errors import ConfigError, WeightError
from tests.helpers.commands import FULL, WEIGHT


def test_given_models_come_before_the_published_weights(folder: Path) -> None:
    assert make_catalog(AppConfig(models=(str(folder),))).names == (str(folder), *ssia_zoo.weights())
    assert make_catalog(AppConfig(models=(str(folder),), zoo=False)).names == (str(folder),)


def test_a_model_stays_in_memory() -> None:
    catalog = make_catalog(AppConfig())
    assert catalog.load(WEIGHT) is catalog.load(WEIGHT)


@pytest.mark.parametrize("settings", [{"host": "0.0.0.0"}, {"others": False}])
def test_a_page_for_others_loads_offered_models_only(settings: dict, folder: Path) -> None:
    catalog = make_catalog(AppConfig(**settings))
    assert catalog.load(FULL)
    for name in (str(folder), "resnet18", "hf-hub:org/name", FULL + "x"):
        with pytest.raises(ConfigError, match="does not offer the model"):
            catalog.load(name)
    assert make_catalog(AppConfig()).load(str(folder))


@pytest.mark.parametrize("place", ["report/report.html", "report.html"])
def test_the_report_of_a_folder_is_found(place: str, folder: Path) -> None:
    (folder / place).parent.mkdir(exist_ok=True)
    (folder / place).touch()
    catalog = make_catalog(AppConfig(models=(str(folder),)))
    assert [(report.name, report.path) for report in catalog.reports] == [(folder.name, folder / place)]
    assert catalog.names[0] == str(folder)


def test_a_folder_with_a_report_needs_no_model(tmp_path: Path) -> None:
    (tmp_path / "report.html").touch()
    catalog = make_catalog(AppConfig(models=(str(tmp_path),)))
    assert len(catalog.reports) == 1
    assert str(tmp_path) not in catalog.names
    with pytest.raises(ConfigError, match="expected at least one model"):
        make_catalog(AppConfig(models=(str(tmp_path),), zoo=False))


def test_a_model_that_cannot_be_loaded_is_an_error_at_once(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nonesuch"):
        make_catalog(AppConfig(models=("nonesuch",)))
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"x")
    with pytest.raises(WeightError):
        make_catalog(AppConfig(models=(str(damaged),)))
