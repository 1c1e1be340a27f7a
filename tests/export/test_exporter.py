from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest
import timm
import torch

import ssia_zoo
from ssia_zoo.data import digits
from ssia_zoo.errors import ConfigError, ExportError, SSIAZooError
from ssia_zoo.export import exporter as exporting
from ssia_zoo.export.exporter import ExportResult, export, export_model, load_artefact
from ssia_zoo.export.images import CalibrationData, RealImages, calibration_data, data_config, parity_images
from ssia_zoo.export.parity import accuracy, check_accuracy, check_parity, class_outputs, compare
from ssia_zoo.hub import file_sha256
from tests.helpers.publishable_folder import contents, edit_config, make_folder

ROOT = Path(__file__).resolve().parents[2]
NEEDS = {"onnx": "onnxruntime", "torch-export": "torch", "openvino": "openvino", "executorch": "executorch"}
SUFFIX = {"onnx": ".onnx", "torch-export": ".pt2", "openvino": ".xml", "executorch": ".pte"}
SIZE = 64
LABELS = ["zero", "one", "two", "three", "four", "five", "six"]

pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")


def need(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A publishable folder whose model takes 64 px images and names its classes."""
    torch.manual_seed(0)
    folder = make_folder(tmp_path_factory.mktemp("source") / "run")

    def change(config: dict) -> None:
        config["pretrained_cfg"] |= {"input_size": [3, SIZE, SIZE], "crop_pct": 0.9, "interpolation": "bicubic"}
        config["label_names"] = LABELS

    edit_config(folder, change)
    return folder


class Artefacts(dict[str, ExportResult]):
    """The model in float32 for each target, exported on first use."""

    def __init__(self, source: Path, folder: Path) -> None:
        super().__init__()
        self.source, self.folder = source, folder

    def __missing__(self, target: str) -> ExportResult:
        self[target] = export(target, f"local-dir:{self.source}", self.folder / f"model{SUFFIX[target]}")
        return self[target]


@pytest.fixture(scope="module")
def artefacts(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Artefacts:
    return Artefacts(source, tmp_path_factory.mktemp("artefacts"))


# --- Parity -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", NEEDS)
def test_an_artefact_gives_the_models_logits_for_any_batch(target: str, artefacts: Artefacts, source: Path) -> None:
    need(NEEDS[target])
    model = timm.create_model(f"local-dir:{source}", pretrained=True).eval()
    images = parity_images(data_config(model, None), None, 8).pixels
    run = load_artefact(target, artefacts[target].path)
    for batch in (images[:1], images[1:8]):
        with torch.inference_mode():
            expected = model(torch.from_numpy(batch)).numpy()
        np.testing.assert_allclose(run(batch), expected, atol=1e-4)


@pytest.mark.parametrize("target", NEEDS)
def test_the_manifest_describes_the_file(target: str, artefacts: Artefacts, source: Path) -> None:
    need(NEEDS[target])
    result = artefacts[target]
    manifest = json.loads(result.manifest_path.read_text())
    assert manifest == json.loads(json.dumps(result.manifest))
    for name, file in manifest["files"].items():
        assert file["sha256"] == file_sha256(result.path.with_name(name))
    assert result.path.name in manifest["files"]
    assert manifest["architecture"] == "test_resnet"
    assert manifest["labels"] == LABELS
    cfg = timm.create_model(f"local-dir:{source}").pretrained_cfg
    described = manifest["input"]
    assert described["shape"] == ["batch", 3, SIZE, SIZE]
    assert (described["mean"], described["std"]) == (list(cfg["mean"]), list(cfg["std"]))
    assert (described["resize"], described["interpolation"], described["layout"]) == (
        {"shortest_edge": 71},
        "bicubic",
        "NCHW",
    )
    assert manifest["parity"]["images"] == 15
    assert manifest["parity"]["max_abs_error"] <= manifest["parity"]["tolerance"]
    assert manifest["versions"]["torch"] == torch.__version__.split("+")[0]


def test_the_manifest_of_an_imagenet_model_has_imagenets_names(tmp_path: Path) -> None:
    result = export("torch-export", "test_resnet", tmp_path / "m.pt2", pretrained=False)
    assert len(result.manifest["labels"]) == 1000
    assert result.manifest["labels"][:2] == ("tench, Tinca tinca", "goldfish, Carassius auratus")
    assert json.loads(result.manifest_path.read_text())["labels"][0] == "tench, Tinca tinca"


@pytest.mark.parametrize("target", NEEDS)
def test_an_artefact_holds_no_path_of_this_machine(target: str, artefacts: Artefacts) -> None:
    need(NEEDS[target])
    for name in artefacts[target].manifest["files"]:
        content = artefacts[target].path.with_name(name).read_bytes()
        assert b"site-packages" not in content
        assert str(ROOT).encode() not in content


def test_an_error_beyond_tolerance_names_the_worst_image_and_leaves_no_file(source: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.txt"
    kept.write_text("mine")
    with pytest.raises(ExportError, match=r"differs from PyTorch by .* digits test image \d+ \(allowed: "):
        export("onnx", f"local-dir:{source}", tmp_path / "model.onnx", tolerance=1e-15)
    assert contents(tmp_path) == {"kept.txt": b"mine"}


def test_a_failure_keeps_the_file_of_an_earlier_export(source: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"earlier")
    with pytest.raises(ExportError):
        export("onnx", f"local-dir:{source}", tmp_path / "model.onnx", tolerance=1e-15)
    assert contents(tmp_path) == {"model.onnx": b"earlier"}


def made_up(*rows: list[float]) -> tuple[RealImages, np.ndarray]:
    logits = np.array(rows, dtype=np.float32)
    return RealImages(np.zeros((len(rows), 3, 2, 2), np.float32), [f"i{n}.png" for n in range(len(rows))], "x"), logits


def test_a_different_top1_fails_within_tolerance_and_a_tie_does_not() -> None:
    real, expected = made_up([1.0, 0.9], [0.5, 0.5])
    swapped = compare(lambda _: np.array([[0.9, 1.0], [0.5, 0.5]], np.float32), real, expected, (2,))
    assert swapped["top1_agreement"] == 1, "an error of at least half the margin can change top-1"
    real, expected = made_up([1.0, 0.0], [0.5, 0.5])
    tie = compare(lambda _: np.array([[1.0, 0.0], [0.5, 0.5001]], np.float32), real, expected, (2,))
    check_parity(tie, 1e-3, "a tie")
    turned = compare(lambda _: np.array([[0.2, 0.9], [0.5, 0.5]], np.float32), real, expected, (2,))
    with pytest.raises(ExportError, match=r"i0\.png"):
        check_parity(turned, 0.1, "turned")


def test_nan_is_never_parity() -> None:
    real, expected = made_up([1.0, 0.0], [0.5, 0.4])
    parity = compare(lambda _: np.array([[1.0, 0.0], [np.nan, 0.4]], np.float32), real, expected, (2,))
    with pytest.raises(ExportError, match=r"i1\.png"):
        check_parity(parity, 1e9, "it")


def test_parity_is_checked_on_the_users_images(source: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for index in range(3):
        digits()["test"][index]["image"].save(images / f"{index}.png")
    (images / "notes.txt").write_text("no image")
    result = export("torch-export", f"local-dir:{source}", tmp_path / "m.pt2", images=images)
    assert result.manifest["parity"]["source"] == images.name
    assert (images / result.manifest["parity"]["worst_image"]).is_file()
    assert result.manifest["model"] == f"local-dir:{source.name}"
    assert str(tmp_path.parent) not in result.manifest_path.read_text(encoding="utf-8")
    assert result.manifest["weights"]["sha256"] == file_sha256(source / "model.safetensors")


# --- int8, fp16, large files ------------------------------------------------------------------------------------------


def test_int8_reports_its_accuracy_and_that_of_float32(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=10)
    model.pretrained_cfg |= {"label_names": [str(digit) for digit in range(10)]}
    quick = {"precision": "int8", "calibration_dataset": "digits", "calibration_images": 16, "image_size": 32}
    result = export_model("onnx", model, "random", tmp_path / "prepared.onnx", tolerance=100, **quick)
    parity = result.manifest["parity"]
    assert parity["accuracy_images"] == 360
    assert 0 <= parity["accuracy"] <= 100
    assert 0 <= parity["accuracy_fp32"] <= 100
    assert "fp32" in exporting.summary(result)
    floats = sum(p.numel() * 4 for p in model.parameters())
    assert result.path.stat().st_size < floats / 2


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["cat", "dog", "bird"], 100),
        ({"0": "cat", "1": "dog", "2": "bird"}, 100),
        (["dog", "cat", "bird"], 0),
        (["bird", "cat", "dog"], 50),  # without the bird, which has no image, the first image is a cat
    ],
)
def test_int8_accuracy_matches_labels_by_name(names: Any, expected: float) -> None:
    images = np.eye(3, dtype=np.float32)[:2]
    data = CalibrationData(images, images, np.array([0, 1]), ["cat", "dog"], "pets")
    outputs = class_outputs(SimpleNamespace(pretrained_cfg={"label_names": names}, num_classes=3), data)
    judged = accuracy(torch.nn.Identity(), lambda images: images, data, outputs)
    assert (judged["accuracy"], judged["accuracy_fp32"], judged["agreement"]) == (expected, expected, 100)


@pytest.mark.parametrize("names", [["dog", "zebra"], ["0", "1"], None])
def test_int8_measures_only_agreement_on_data_of_other_classes(
    names: list[str] | None, caplog: pytest.LogCaptureFixture
) -> None:
    data = CalibrationData(np.zeros((1, 2)), np.eye(2, dtype=np.float32), np.array([0, 1]), ["cat", "dog"], "pets")
    outputs = class_outputs(SimpleNamespace(pretrained_cfg={"label_names": names}, num_classes=2), data)
    assert "accuracy" not in accuracy(torch.nn.Identity(), lambda images: images, data, outputs)
    assert "accuracy is not measured" in caplog.text


def test_images_of_sixteen_bits_are_scaled_for_calibration(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for split in ("train", "test"):
        for label in ("a", "b"):
            (folder / split / label).mkdir(parents=True)
            pixels = np.full((8, 8), 20000 if label == "a" else 40000, np.uint16)
            PIL.Image.fromarray(pixels).save(folder / split / label / "image.png")
    config = data_config(timm.create_model("test_resnet"), 8) | {"mean": (0, 0, 0), "std": (1, 1, 1)}
    images = calibration_data(config, str(folder), 2).eval_images
    assert sorted(images.mean(axis=(1, 2, 3))) == pytest.approx([20000 / 65535, 40000 / 65535], abs=0.003)


def test_int8_that_loses_accuracy_fails() -> None:
    parity = {"accuracy": 90.0, "accuracy_fp32": 93.0, "calibration_dataset": "digits", "worst_image": "image 3"}
    with pytest.raises(ExportError, match=r"loses 3\.0 points of top-1 on digits \(allowed: 2\); .* image 3"):
        check_accuracy(parity, 2.0, "it")
    check_accuracy(parity, 3.0, "it")
    with pytest.raises(ExportError, match="agreement with float32"):
        check_accuracy({"agreement": 90.0, "calibration_dataset": "x", "worst_image": "y"}, 2.0, "it")


def test_openvino_stores_half_the_bytes_in_fp16(source: Path, tmp_path: Path, artefacts: Artefacts) -> None:
    need("openvino")
    half = export("openvino", f"local-dir:{source}", tmp_path / "m.xml", precision="fp16")
    full = artefacts["openvino"].manifest["files"]["model.bin"]["bytes"]
    assert half.manifest["files"]["m.bin"]["bytes"] < 0.6 * full


@pytest.mark.slow
def test_openvino_leaves_no_onnx_file_even_where_it_has_two(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("openvino")
    script = exporting._load_script("openvino")
    to_onnx = script._to_onnx()  # type: ignore[attr-defined]
    monkeypatch.setattr(to_onnx, "_LARGEST_FILE", 1000)
    monkeypatch.setattr(script, "_to_onnx", lambda: to_onnx)
    result = export("openvino", f"local-dir:{source}", tmp_path / "m.xml")
    assert {path.name for path in tmp_path.iterdir()} == {"m.xml", "m.bin", "m.xml.json"}
    assert set(result.manifest["files"]) == {"m.xml", "m.bin"}


def test_openvino_quantizes_with_nncf(tmp_path: Path) -> None:
    need("nncf")
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=10)
    model.pretrained_cfg |= {"label_names": [str(digit) for digit in range(10)]}
    quick = {"precision": "int8", "calibration_dataset": "digits", "calibration_images": 16, "image_size": 32}
    result = export_model("openvino", model, "random", tmp_path / "m.xml", tolerance=100, **quick)
    assert "accuracy" in result.manifest["parity"]


def test_weights_beyond_the_limit_of_protobuf_are_in_a_second_file(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting._load_script("onnx"), "_LARGEST_FILE", 1000)
    result = export("onnx", f"local-dir:{source}", tmp_path / "m.onnx")
    assert set(result.manifest["files"]) == {"m.onnx", "m.onnx.data"}
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in result.manifest["files"]:
        (tmp_path / name).rename(moved / name)
    images = np.zeros((1, 3, SIZE, SIZE), np.float32)
    assert load_artefact("onnx", moved / "m.onnx")(images).shape == (1, 7)


def test_executorch_takes_the_largest_batch_of_its_manifest(artefacts: Artefacts) -> None:
    need("executorch")
    result = artefacts["executorch"]
    images = np.zeros((result.manifest["largest_batch"], 3, SIZE, SIZE), np.float32)
    assert load_artefact("executorch", result.path)(images).shape == (len(images), 7)


# --- Free at inference ------------------------------------------------------------------------------------------------


def test_the_graph_of_an_ssia_name_is_the_vanilla_graph(tmp_path: Path) -> None:
    import onnx

    ssia_zoo.register("test_resnet")
    graphs = []
    for name in ("test_resnet", "test_resnet_ssia"):
        torch.manual_seed(0)
        path = export("onnx", name, tmp_path / f"{name}.onnx", pretrained=False, image_size=SIZE).path
        graphs.append(onnx.load(path).graph)
    vanilla, ssia = graphs
    assert len(vanilla.node) > 20
    assert list(vanilla.node) == list(ssia.node)
    assert list(vanilla.initializer) == list(ssia.initializer)
    assert (list(vanilla.input), list(vanilla.output)) == (list(ssia.input), list(ssia.output))


# --- Bad input --------------------------------------------------------------------------------------------------------


def bad(source: Path, folder: Path) -> dict[str, tuple[str, str, Path, dict, str]]:
    model, out = f"local-dir:{source}", folder / "m.onnx"
    ssia_zoo.register("test_vit")
    return {
        "unknown target": ("onx", model, out, {}, "unknown export target 'onx'; did you mean onnx?"),
        "wrong suffix": ("onnx", model, folder / "m.pt2", {}, "`out` is .*expected a name ending in .onnx for onnx"),
        "no such folder": ("onnx", model, folder / "none" / "m.onnx", {}, "cannot be written"),
        "precision": ("torch-export", model, folder / "m.pt2", {"precision": "int8"}, "torch-export has fp32"),
        "no calibration": ("onnx", model, out, {"precision": "int8"}, "`precision` int8 needs `calibration_dataset`"),
        "idle calibration": ("onnx", model, out, {"calibration_dataset": "digits"}, "takes no `calibration_dataset`"),
        "no weights": ("onnx", "test_vit_ssia", out, {}, "has no published weight"),
        "unknown model": ("onnx", "resnet5O", out, {}, "resnet5O"),
        "wrong size": ("onnx", "test_vit_ssia", out, {"image_size": 33, "pretrained": False}, "33|patch"),
        "no size": ("onnx", model, out, {"image_size": 0}, "`image_size` is 0"),
        "too small": ("onnx", "inception_v3", out, {"image_size": 8, "pretrained": False}, "8 x 8 pixels"),
        "tolerance": ("onnx", model, out, {"tolerance": 0.0}, "`tolerance` is 0"),
        "no tolerance": ("onnx", model, out, {"tolerance": float("inf")}, "`tolerance` is inf"),
        "no images": ("onnx", model, out, {"images": folder / "none"}, "`images` is .*, which is not a folder"),
        "empty images": ("onnx", model, out, {"images": folder}, "`images` is .*, which has no images"),
    }


@pytest.mark.parametrize("case", sorted(bad(Path(), Path())))
def test_bad_input_is_an_error_of_one_line_and_leaves_nothing(case: str, source: Path, tmp_path: Path) -> None:
    target, model, out, options, message = bad(source, tmp_path)[case]
    with pytest.raises(SSIAZooError, match=message) as caught:
        export(target, model, out, **options)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_in_a_folder_each_precision_has_its_own_name(source: Path, tmp_path: Path) -> None:
    paths = [
        exporting._output_path(tmp_path, model, precision, ".onnx", "onnx").name
        for model, precision in (("hf-hub:org/name", "fp32"), ("resnet18", "int8"), (f"local-dir:{source}/.", "fp16"))
    ]
    assert paths == ["name.onnx", "resnet18_int8.onnx", f"{source.name}_fp16.onnx"]


def test_a_missing_runtime_is_an_error_with_the_command_that_installs_it(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "onnxruntime" else find(name, *a))
    with pytest.raises(ConfigError, match=r"^onnx needs onnxruntime; run: pip install 'ssia-zoo\[export\]'$"):
        export("onnx", f"local-dir:{source}", tmp_path / "m.onnx")


@pytest.mark.slow
def test_sigterm_leaves_nothing_behind(source: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ssia_zoo.cli", "export", "torch-export", str(source), "--out", "m.pt2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        while not list(tmp_path.iterdir()):
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        _, printed = process.communicate(timeout=120)
    assert (process.returncode, printed) == (143, "stopped\n")
    assert not list(tmp_path.iterdir())
