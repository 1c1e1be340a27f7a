"""export/predict.py gives PyTorch's classes without PyTorch."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from ssia_zoo.data import digits
from ssia_zoo.export.exporter import export
from ssia_zoo.export.images import data_config, parity_images
from ssia_zoo.inference.classifier import Classifier
from ssia_zoo.models.loading import load_model
from tests.helpers.publishable_folder import edit_config, make_folder

ROOT = Path(__file__).resolve().parents[2]
RUNTIME = {"onnx": "onnxruntime", "openvino": "openvino"}
SUFFIX = {"onnx": ".onnx", "openvino": ".xml"}
LABELS = ["zero", "one", "two", "three", "four", "five", "six"]
ORIENTATION, QUARTER_TURN = 0x0112, 6  # of EXIF

ALONE = """
import runpy, sys
class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "timm", "ssia_zoo", "torchvision", "transformers"):
            raise ImportError(f"{name} is forbidden")
sys.meta_path.insert(0, Forbidden())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A publishable folder whose model takes 64 px images and names its classes."""
    torch.manual_seed(0)
    folder = make_folder(tmp_path_factory.mktemp("source") / "run")

    def change(config: dict) -> None:
        config["pretrained_cfg"] |= {"input_size": [3, 64, 64], "crop_pct": 0.9, "interpolation": "bicubic"}
        config["label_names"] = LABELS

    edit_config(folder, change)
    return folder


@pytest.fixture(scope="module")
def artefacts(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("artefacts")
    installed = [target for target, package in RUNTIME.items() if importlib.util.find_spec(package)]
    return {t: export(t, f"local-dir:{source}", folder / f"model{SUFFIX[t]}").path for t in installed}


@pytest.fixture(params=RUNTIME)
def target(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(RUNTIME[request.param])
    return str(request.param)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """A square image, one that is not square, and one with EXIF rotation."""
    folder = tmp_path / "images"
    folder.mkdir()
    first, second, third = (digits()["test"][index]["image"] for index in (0, 1, 2))
    first.save(folder / "a.png")
    second.resize((90, 61)).save(folder / "b.png")
    turned = Image.Exif()
    turned[ORIENTATION] = QUARTER_TURN
    third.resize((50, 80)).save(folder / "c.jpg", exif=turned)
    return sorted(folder.iterdir())


SCRIPT = ROOT / "export" / "predict.py"


def run(python: object, *arguments: object, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [str(part) for part in (python, *arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def check(printed: str, source: Path, images: list[Path], **preprocessing: object) -> None:
    """Compare classes and probabilities with PyTorch's after timm's preprocessing."""
    model = timm.create_model(f"local-dir:{source}", pretrained=True).eval()
    config = data_config(model, None) | preprocessing
    with torch.inference_mode():
        pixels = torch.from_numpy(parity_images(config, images[0].parent, len(images)).pixels)
        expected = model(pixels).softmax(1).max(1)
    lines = [line.split("\t") for line in printed.splitlines()]
    assert [line[0] for line in lines] == [str(image) for image in images]
    assert [line[1] for line in lines] == [LABELS[int(index)] for index in expected.indices]
    np.testing.assert_allclose([float(line[2]) for line in lines], expected.values, atol=2e-4)


@pytest.mark.slow
def test_a_script_needs_neither_torch_nor_this_package(
    target: str, artefacts: dict[str, Path], source: Path, images: list[Path], tmp_path: Path
) -> None:
    printed = run(sys.executable, "-c", ALONE, SCRIPT, artefacts[target], *images, cwd=tmp_path)
    check(printed, source, images)


def test_a_model_of_several_labels_gives_each_class_from_its_threshold_on(
    source: Path, images: list[Path], tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    several = Path(shutil.copytree(source, tmp_path / "several"))
    edit_config(several, lambda config: config.update(problem_type="multi_label_classification", threshold=0.48))
    file = export("onnx", f"local-dir:{several}", tmp_path / "m.onnx").path
    printed = run(sys.executable, "-c", ALONE, SCRIPT, file, *images, cwd=tmp_path)
    classifier = Classifier(load_model(str(several)))
    expected = [
        [str(done.path), *(word for guess in done.guesses for word in (guess.label, f"{guess.probability:.4f}"))]
        for done in classifier.predict(images, lambda *_: None)
    ]
    lines = [line.split("\t") for line in printed.splitlines()]
    assert [line[::2][:1] + line[1::2] for line in lines] == [line[::2][:1] + line[1::2] for line in expected]
    assert len({len(line) for line in lines}) > 1 or 1 < len(lines[0]) < 15, "some classes, not all"
    for line, wanted in zip(lines, expected, strict=True):
        np.testing.assert_allclose([float(x) for x in line[2::2]], [float(x) for x in wanted[2::2]], atol=2e-4)


def test_more_than_8_bits_per_channel_is_an_error(target: str, artefacts: dict[str, Path], tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(tmp_path / "deep.png")
    command = [sys.executable, SCRIPT, artefacts[target], tmp_path / "deep.png"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "deep.png has more than 8 bits a channel" in done.stderr


def with_manifest(artefact: Path, folder: Path, **changes: object) -> Path:
    """A copy of the artefact with a changed manifest."""
    for file in artefact.parent.glob("model.*"):
        shutil.copy(file, folder)
    path = folder / f"{artefact.name}.json"
    manifest = json.loads(path.read_text())
    manifest["input"] |= changes
    manifest["labels"] = changes.pop("labels", manifest["labels"])
    path.write_text(json.dumps(manifest))
    return folder / artefact.name


def test_a_script_squashes_as_the_manifest_says(
    target: str, artefacts: dict[str, Path], source: Path, images: list[Path], tmp_path: Path
) -> None:
    squashed = with_manifest(artefacts[target], tmp_path, resize={"height": 71, "width": 71})
    check(run(sys.executable, SCRIPT, squashed, *images, cwd=tmp_path), source, images, crop_mode="squash")


def test_classes_without_names_are_numbered(
    target: str, artefacts: dict[str, Path], images: list[Path], tmp_path: Path
) -> None:
    nameless = with_manifest(artefacts[target], tmp_path, labels=None)
    lines = run(sys.executable, SCRIPT, nameless, *images, cwd=tmp_path).splitlines()
    named = run(sys.executable, SCRIPT, artefacts[target], *images, cwd=tmp_path).splitlines()
    assert [LABELS[int(line.split("\t")[1])] for line in lines] == [line.split("\t")[1] for line in named]


def test_an_unknown_resize_is_an_error(
    target: str, artefacts: dict[str, Path], images: list[Path], tmp_path: Path
) -> None:
    odd = with_manifest(artefacts[target], tmp_path, resize=None, crop_mode="border")
    command = [sys.executable, str(SCRIPT), str(odd), *map(str, images)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "needs a resize that this script does not implement" in done.stderr


@pytest.mark.slow
def test_a_script_runs_where_only_its_runtime_is_installed(
    target: str, artefacts: dict[str, Path], source: Path, images: list[Path], tmp_path: Path
) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "numpy", "pillow", RUNTIME[target]]
    if subprocess.run(install, check=False).returncode:
        pytest.skip("the packages cannot be installed here")
    check_absent = "import importlib.util as u, sys; sys.exit(any(map(u.find_spec, ['torch', 'timm', 'ssia_zoo'])))"
    run(python, "-c", check_absent, cwd=tmp_path)
    check(run(python, SCRIPT, artefacts[target], *images, cwd=tmp_path), source, images)
