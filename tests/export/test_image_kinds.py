"""Models of one and four channels, and of input that is not square: exported with parity, and run by predict.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssia_zoo.errors import ConfigError
from ssia_zoo.export.exporter import export
from ssia_zoo.export.images import calibration_data, data_config
from ssia_zoo.export.onnx import _preprocessor
from ssia_zoo.inference.classifier import Classifier
from ssia_zoo.inference.images import read_image
from ssia_zoo.models.loading import load_model
from tests.helpers.publishable_folder import edit_config, make_folder
from tests.helpers.runs import ROOT, run

pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")

COLOURS = {1: "greyscale (Pillow's mode L)", 4: "RGBA"}


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Images of several modes and shapes."""
    numbers, paths = np.random.default_rng(0), []
    for mode, width, height in (("RGBA", 90, 40), ("RGB", 50, 70), ("L", 80, 48), ("CMYK", 60, 60)):
        paths.append(tmp_path / f"{mode}.tif")
        pixels = numbers.integers(0, 256, (height, width, 4), dtype=np.uint8)
        Image.fromarray(pixels).convert("RGB" if mode == "CMYK" else mode).convert(mode).save(paths[-1])
    return paths


@pytest.mark.parametrize(("channels", "size"), [(1, (48, 80)), (4, (64, 48)), (4, None)])
def test_an_exported_file_agrees_with_pytorch_and_predict_py(
    tmp_path: Path, images: list[Path], channels: int, size: tuple[int, int] | None
) -> None:
    torch.manual_seed(0)
    folder = make_folder(tmp_path / "model", in_chans=channels)
    statistics = {"mean": [0.4] * channels, "std": [0.05] * channels, "crop_pct": 0.9}
    edit_config(folder, lambda c: c["pretrained_cfg"].update({**statistics, "input_size": [channels, 64, 64]}))
    height, width = size or (64, 64)
    result = export("onnx", str(folder), tmp_path / "m.onnx", images=tmp_path, image_size=size)
    assert result.manifest["input"]["shape"] == ["batch", channels, height, width]
    assert result.manifest["input"]["color"].startswith(COLOURS[channels])
    assert result.manifest["parity"]["max_abs_error"] < 1e-3
    edit_config(folder, lambda c: c["pretrained_cfg"].update({"input_size": [channels, height, width]}))
    classifier = Classifier(load_model(str(folder)))
    expected = classifier.probabilities(torch.stack([classifier.prepare(read_image(path)) for path in images])).max(1)
    printed = run(sys.executable, ROOT / "export" / "predict.py", tmp_path / "m.onnx", *images)
    assert printed.returncode == 0, printed.stderr
    lines = [line.split("\t") for line in printed.stdout.splitlines()]
    assert [int(line[1]) for line in lines] == expected.indices.tolist()
    np.testing.assert_allclose([float(line[2]) for line in lines], expected.values, atol=2e-3)
    with pytest.raises(ConfigError, match=f"RGB images only, and the model takes {channels} channels"):
        _preprocessor(json.loads((tmp_path / "m.onnx.json").read_text())["input"])


def test_a_size_that_is_none_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`image_size` is 0; expected one number of pixels greater than 0, or two"):
        export("onnx", "test_resnet", tmp_path / "m.onnx", image_size=0, pretrained=False)


def test_calibration_images_have_the_models_channels(tmp_path: Path) -> None:
    model = load_model(str(make_folder(tmp_path / "model", in_chans=1)))
    data = calibration_data(data_config(model, (32, 48)), "digits", 3)
    assert data.images.shape == (3, 1, 32, 48)
    assert data.eval_images.shape[1:] == (1, 32, 48)
