"""The models and reports that the page offers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

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


def test_a_folder_is_loaded_again_when_its_weights_change(folder: Path) -> None:
    catalog = make_catalog(AppConfig(models=(str(folder),), zoo=False))
    first = catalog.load(str(folder))
    assert catalog.load(str(folder)) is first
    weights = load_file(folder / "model.safetensors")
    save_file({name: tensor * 2 for name, tensor in weights.items()}, folder / "model.safetensors")
    second = catalog.load(str(folder))
    assert second is not first
    assert all(torch.equal(second.model.state_dict()[name].cpu(), tensor * 2) for name, tensor in weights.items())
    assert catalog.load(str(folder)) is second


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


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["r/a/report", "r/b/report"], ["a", "b"]),
        (["r/a/report", "s/a/report", "r/c"], ["r/a", "s/a", "c"]),
        (["r/a", "s/a", "s/b"], ["r/a", "s/a", "b"]),
        (["r/a", "r/a/report", "r/../r/a"], ["a"]),
    ],
)
def test_each_report_has_a_name_of_its_own(
    folders: list[str], names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("r/a", "r/b", "r/c", "s/a", "s/b"):
        (tmp_path / name / "report").mkdir(parents=True)
        (tmp_path / name / "report" / "report.html").touch()
    assert [report.name for report in make_catalog(AppConfig(models=tuple(folders))).reports] == names


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
