from __future__ import annotations

import json
from pathlib import Path

import pytest
from hub_server import HubServer
from huggingface_hub import HfApi
from publishable_folder import contents, edit_config

from ssia_zoo._publishable import ONNX_FILES
from ssia_zoo.cli import main
from ssia_zoo.errors import ConfigError, ExportError, WeightError
from ssia_zoo.hub import publish
from ssia_zoo.hub_onnx import add_onnx

SIZE = 64

pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")


@pytest.fixture
def small(folder: Path) -> Path:
    """A publishable folder whose model takes 64 px images and names its classes."""

    def change(config: dict) -> None:
        config["pretrained_cfg"] |= {"input_size": [3, SIZE, SIZE], "crop_pct": 0.9, "interpolation": "bicubic"}
        config["label_names"] = ["zero", "one", "two", "three", "four", "five", "six"]

    edit_config(folder, change)
    return folder


def test_add_onnx_lays_files_where_others_look_and_publish_sends_them(small: Path, hub: HubServer) -> None:
    before = contents(small)
    added = add_onnx(small)
    assert set(added) == {"onnx/model.onnx", "onnx/model.onnx.json", "onnx/config.json", "preprocessor_config.json"}
    assert set(added) <= set(ONNX_FILES)
    assert {path: contents(small)[path] for path in before} == before, "nothing that was there changes"
    preprocessor = json.loads((small / "preprocessor_config.json").read_text())
    assert preprocessor["size"] == {"shortest_edge": 71}
    assert preprocessor["crop_size"] == {"height": SIZE, "width": SIZE}
    assert preprocessor["resample"] == 3
    assert json.loads((small / "onnx" / "config.json").read_text())["id2label"]["6"] == "six"
    publish(small, "alice/plain", token="hf_good")
    publish(small, "alice/with-onnx", token="hf_good", extra=added)
    api = HfApi(endpoint=hub.url, token="hf_good")
    assert not any(name.startswith("onnx") for name in api.list_repo_files("alice/plain"))
    assert set(added) < set(api.list_repo_files("alice/with-onnx"))


def test_transformers_preprocesses_as_timm_does_with_and_without_the_added_file(small: Path) -> None:
    transformers = pytest.importorskip("transformers")
    import timm
    from timm.data import create_transform, resolve_model_data_config

    from ssia_zoo.data import digits

    add_onnx(small)
    model = timm.create_model(f"local-dir:{small}", pretrained=True)
    image = digits()["test"][0]["image"].convert("RGB").resize((90, 61))
    expected = create_transform(**resolve_model_data_config(model), is_training=False)(image)
    processor = transformers.AutoImageProcessor.from_pretrained(small)
    got = processor(image, return_tensors="pt")["pixel_values"][0]
    assert got.shape == expected.shape
    assert (got - expected).abs().max() < 1e-5


def test_the_command_publishes_with_onnx(small: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert main(["publish", str(small), "alice/name", "--with", "onnx"]) == 0
    assert "onnx/model.onnx" in HfApi(endpoint=hub.url, token="hf_good").list_repo_files("alice/name")
    assert main(["publish", "--all", "--org", "alice", "--with", "onnx"]) == 2


def test_publish_refuses_extra_files_that_add_onnx_does_not_write(folder: Path) -> None:
    for name in ("log.jsonl", "../secret", "onnx/model.onnx"):
        with pytest.raises(WeightError, match=name):
            publish(folder, "alice/x", extra=[name])


def test_add_onnx_that_fails_leaves_the_folder_as_it_was(small: Path) -> None:
    before = contents(small)
    with pytest.raises(ExportError):
        add_onnx(small, tolerance=1e-15)
    assert contents(small) == before


def test_preprocessing_that_javascript_cannot_be_told_is_refused(small: Path) -> None:
    edit_config(small, lambda config: config["pretrained_cfg"].update(crop_mode="border"))
    before = contents(small)
    with pytest.raises(ConfigError, match="by crop_mode 'border'"):
        add_onnx(small)
    assert contents(small) == before
