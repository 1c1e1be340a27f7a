from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import HfApi
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

import ssia_zoo
from ssia_zoo.cli import main
from ssia_zoo.data import digits
from ssia_zoo.errors import ConfigError, DataError, ExportError, WeightError
from ssia_zoo.export import onnx as hub_onnx
from ssia_zoo.export.onnx import add_onnx
from ssia_zoo.hub import publish
from ssia_zoo.hub.folder import ONNX_FILES
from ssia_zoo.models.release import write_weight_folder
from tests.helpers.hub_server import HubServer
from tests.helpers.publishable_folder import contents, edit_config

SIZE = 64
FOR_JAVASCRIPT = ("config.json", "preprocessor_config.json")

pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")


@pytest.fixture
def small(folder: Path) -> Path:
    """A publishable folder whose model takes 64 px images and names its classes."""

    def change(config: dict) -> None:
        config["pretrained_cfg"] |= {"input_size": [3, SIZE, SIZE], "crop_pct": 0.9, "interpolation": "bicubic"}
        config["label_names"] = ["zero", "one", "two", "three", "four", "five", "six"]

    edit_config(folder, change)
    return folder


def test_add_onnx_writes_files_where_transformers_looks_and_publish_uploads_them(small: Path, hub: HubServer) -> None:
    before = contents(small)
    added = add_onnx(small)
    assert set(added) == {f"onnx/{name}" for name in ("model.onnx", "model.onnx.json", *FOR_JAVASCRIPT)}
    assert set(added) <= set(ONNX_FILES)
    assert {path: contents(small)[path] for path in before} == before, "existing files do not change"
    preprocessor = json.loads((small / "onnx" / "preprocessor_config.json").read_text())
    assert preprocessor["size"] == {"shortest_edge": 71}
    assert preprocessor["crop_size"] == {"height": SIZE, "width": SIZE}
    assert preprocessor["resample"] == 3
    assert json.loads((small / "onnx" / "config.json").read_text())["id2label"]["6"] == "six"
    publish(small, "alice/plain", token="hf_good")
    publish(small, "alice/with-onnx", token="hf_good", extra=added)
    api = HfApi(endpoint=hub.url, token="hf_good")
    assert not any(name.startswith("onnx") for name in api.list_repo_files("alice/plain"))
    assert set(added) < set(api.list_repo_files("alice/with-onnx"))


@pytest.mark.parametrize("crop_pct", [0.9, 1.0])  # margins of 7 pixels, which cannot be halved, and of none
def test_transformers_preprocesses_as_timm_does_with_onnx_files_on_the_hub(
    small: Path, hub: HubServer, crop_pct: float
) -> None:
    transformers = pytest.importorskip("transformers")
    edit_config(small, lambda config: config["pretrained_cfg"].update(crop_pct=crop_pct))
    publish(small, "alice/name", token="hf_good", extra=add_onnx(small))
    processor = transformers.AutoImageProcessor.from_pretrained("alice/name")
    model = timm.create_model("hf-hub:alice/name", pretrained=True)
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    numbers = np.random.default_rng(0)
    for height, width in numbers.integers(60, 161, (100, 2)):
        image = Image.fromarray(numbers.integers(0, 256, (height, width, 3), dtype=np.uint8))
        got = processor(image, return_tensors="pt")["pixel_values"][0]
        assert torch.equal(got, transform(image)), f"{height} x {width}"


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A published weight as a publishable folder: with random weights int8 loses more accuracy than is allowed."""
    name = "mobilenetv3_small_050_ssia.digits_r32"
    return write_weight_folder(ssia_zoo.weights()[name], tmp_path / "trained", repo_id="alice/name")


def test_a_model_of_several_labels_stays_one(small: Path) -> None:
    edit_config(small, lambda config: config.update(problem_type="multi_label_classification", threshold=0.3))
    add_onnx(small)
    described = json.loads((small / "onnx" / "config.json").read_text())
    assert (described["problem_type"], described["threshold"]) == ("multi_label_classification", 0.3)


@pytest.mark.slow
def test_the_command_publishes_onnx_and_a_quantized_file(
    trained: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    flags = ["--with", "onnx", "--calibration-dataset", "digits"]
    assert main(["publish", str(trained), "alice/name", *flags]) == 0
    assert set(ONNX_FILES) < set(HfApi(endpoint=hub.url, token="hf_good").list_repo_files("alice/name"))
    full, quantized = (trained / "onnx" / name for name in ("model.onnx", "model_quantized.onnx"))
    assert quantized.stat().st_size < full.stat().st_size / 2


def test_a_failed_push_names_the_command_with_onnx(
    trained: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    monkeypatch.setattr("ssia_zoo.export.onnx.add_onnx", lambda folder, **_: [])
    assert main(["publish", str(trained), "alice/name", "--with", "onnx", "--calibration-dataset", "digits"]) == 1
    assert f"publish {trained} alice/name --with onnx --calibration-dataset digits" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [["--all", "--org", "alice", "--with", "onnx"], ["runs/mine", "alice/name", "--calibration-dataset", "digits"]],
)
def test_onnx_flags_without_a_folder_are_a_wrong_command_line(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["publish", *words]) == 2
    assert "--calibration-dataset needs --with onnx" in capsys.readouterr().err


def test_publish_rejects_files_that_add_onnx_does_not_write(folder: Path) -> None:
    for name in ("log.jsonl", "../secret", "onnx/model.onnx"):
        with pytest.raises(WeightError, match=name):
            publish(folder, "alice/x", extra=[name])


def test_a_failed_export_leaves_the_folder_unchanged(small: Path) -> None:
    before = contents(small)
    with pytest.raises(ExportError):
        add_onnx(small, tolerance=1e-15)
    assert contents(small) == before


@pytest.mark.parametrize("mine", [f"onnx/{name}" for name in FOR_JAVASCRIPT])
def test_a_strangers_file_is_not_replaced(small: Path, mine: str) -> None:
    (small / "onnx").mkdir()
    (small / mine).write_text("mine")
    before = contents(small)
    with pytest.raises(ConfigError, match=f"{mine} exists and is not of an earlier export"):
        add_onnx(small)
    assert contents(small) == before


@pytest.mark.parametrize("at", ["model_quantized.onnx", "preprocessor_config.json", "config.json", "move"])
@pytest.mark.parametrize("earlier", [True, False])
def test_a_failure_at_any_point_leaves_the_folder_unchanged(
    small: Path, monkeypatch: pytest.MonkeyPatch, at: str, earlier: bool
) -> None:
    if earlier:
        (small / "onnx").mkdir()
        for name in ("model.onnx", "model.onnx.json", *FOR_JAVASCRIPT):
            (small / "onnx" / name).write_text("of an earlier export")
    before = contents(small)
    if at == "move":
        if earlier:
            pytest.skip("renames replace earlier files one by one")

        def replace(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("ssia_zoo.export.onnx.os.replace", replace)
    elif at.endswith(".json"):
        write = hub_onnx._write

        def fail(path: Path, content: dict[str, Any]) -> None:
            if path.name == at:
                raise OSError(28, "No space left on device")
            write(path, content)

        monkeypatch.setattr(hub_onnx, "_write", fail)
    with pytest.raises((ConfigError, DataError)):
        add_onnx(small, calibration_dataset="./nowhere" if at.startswith("model") else None)
    assert contents(small) == before
    assert (small / "onnx").exists() == earlier


def test_preprocessing_without_an_equivalent_in_javascript_is_an_error(small: Path) -> None:
    edit_config(small, lambda config: config["pretrained_cfg"].update(crop_mode="border"))
    before = contents(small)
    with pytest.raises(ConfigError, match="with crop_mode 'border'"):
        add_onnx(small)
    assert contents(small) == before


# --- transformers.js --------------------------------------------------------------------------------------------------

TRANSFORMERS_JS = "@huggingface/transformers@4.3.1"


@pytest.fixture(scope="module")
def node_packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which npm has installed transformers.js, some 500 MB."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("node")
    (folder / "package.json").write_text("{}")
    command = ["npm", "install", "--no-audit", "--no-fund", TRANSFORMERS_JS]
    cpu_only = os.environ | {"ONNXRUNTIME_NODE_INSTALL": "skip"}  # the CPU runtime is in the package
    done = subprocess.run(command, cwd=folder, env=cpu_only, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"npm cannot install {TRANSFORMERS_JS}: {done.stderr[-200:]}")
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("dtype", ["fp32", "q8"])
def test_transformers_js_classifies_from_the_hub_as_pytorch_does(
    dtype: str, trained: Path, hub: HubServer, node_packages: Path, tmp_path: Path
) -> None:
    publish(trained, "alice/name", token="hf_good", extra=add_onnx(trained, calibration_dataset="digits"))
    model = timm.create_model(f"local-dir:{trained}", pretrained=True).eval()
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    # At the model's size, as transformers.js resizes with other filters than Pillow.
    images = [digits()["test"][index]["image"].convert("RGB").resize((32, 32)) for index in (0, 1)]
    files = [tmp_path / f"{index}.png" for index in range(len(images))]
    for image, file in zip(images, files, strict=True):
        image.save(file)
    script = Path(__file__).resolve().parents[1] / "helpers" / "classify.cjs"
    command = ["node", str(script), str(node_packages), hub.url, "alice/name", dtype, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with torch.inference_mode():
        expected = model(torch.stack([transform(image) for image in images])).softmax(1)
    labels = model.pretrained_cfg["label_names"]
    for row, classes in zip(expected, json.loads(done.stdout), strict=True):
        assert classes[0]["label"] == labels[int(row.argmax())]
        if dtype == "fp32":
            got = {found["label"]: found["score"] for found in classes}
            torch.testing.assert_close(torch.tensor([got[label] for label in labels]), row, atol=1e-4, rtol=0)
