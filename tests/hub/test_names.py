"""In every command a name means the published weight, and ./NAME or local-dir:NAME a folder of that name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import ssia_zoo
from ssia_zoo.cli import main
from ssia_zoo.errors import ConfigError
from ssia_zoo.export.exporter import export
from ssia_zoo.hub import file_sha256
from ssia_zoo.models.loading import load_model
from ssia_zoo.models.saving import public_model, public_name
from ssia_zoo.training.arguments import read_config
from tests.helpers.hub_server import HubServer
from tests.helpers.stored_models import assert_loaded


@pytest.fixture(params=["mobilenetv3_small_050_ssia", "mobilenetv3_small_050_ssia.digits_r32"])
def decoy(request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a published weight, and of a folder with another model."""
    name: str = request.param
    folder.rename(folder.parent / name)
    monkeypatch.chdir(folder.parent)
    return name


def test_a_name_loads_the_published_weight_with_a_warning(decoy: str, caplog: pytest.LogCaptureFixture) -> None:
    assert load_model(decoy).num_classes == 10
    assert f"{decoy} means the registered model; for the folder of this name use ./{decoy}" in caplog.text
    for name in (f"./{decoy}", f"local-dir:{decoy}", str(Path(decoy).resolve())):
        assert_loaded(load_model(name), Path(decoy))


def test_a_name_exports_the_published_weight_and_a_path_the_folder(decoy: str, tmp_path: Path) -> None:
    published = ssia_zoo.weights()["mobilenetv3_small_050_ssia.digits_r32"]
    manifest = export("torch-export", decoy, tmp_path / "name.pt2").manifest
    assert (manifest["model"], manifest["weights"]["sha256"]) == (decoy, published.sha256)
    manifest = export("torch-export", f"./{decoy}", tmp_path / "folder.pt2").manifest
    assert manifest["model"] == f"local-dir:{decoy}"
    assert manifest["weights"]["sha256"] == file_sha256(Path(decoy) / "model.safetensors")


def test_a_name_as_a_configuration_is_the_published_weights(decoy: str) -> None:
    assert read_config(decoy).model == "mobilenetv3_small_050"
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(f"./{decoy}")


def test_commands_take_the_name_for_the_published_weight(
    hub: HubServer, decoy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", decoy]) == 0
    assert "as stated in hub_configs/mobilenetv3_small_050_ssia.digits_r32.json" in capsys.readouterr().out
    assert main(["info", decoy, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["architecture"] == "mobilenetv3_small_050"
    assert main(["fetch", decoy]) == 0
    assert "hub_configs" in capsys.readouterr().out
    assert main(["publish", decoy, "org/name"]) == 2
    assert f"write ./{decoy}" in capsys.readouterr().err
    assert main(["publish", f"./{decoy}", "org/name"]) == 1
    assert f"repeat with: ssia-zoo publish ./{decoy} org/name" in capsys.readouterr().err


def test_a_link_with_a_weights_name_does_not_rename_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "mobilenetv3_small_050_ssia").symlink_to(folder)
    monkeypatch.chdir(tmp_path / "here")
    assert public_name("mobilenetv3_small_050_ssia") == public_model("mobilenetv3_small_050_ssia")
    assert public_model("mobilenetv3_small_050_ssia") == "mobilenetv3_small_050_ssia"
    assert public_model("./mobilenetv3_small_050_ssia") == f"local-dir:{folder.name}"
    assert public_name(f"{folder}") == folder.name
