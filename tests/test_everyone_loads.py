"""Published weights load in timm and in transformers, in processes without this package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.utils import close_session
from PIL import Image
from safetensors.torch import load_file

from ssia_zoo.models.release import publish_all
from tests.helpers.hub_server import HubServer
from tests.helpers.toy_weight import CLASSES, write_toy_weight

REPOS = {arch: f"org/{arch}_ssia.toys_r64" for arch in ("test_resnet", "test_vit")}
"""A CNN, and a ViT whose position embedding is for 64 pixels instead of the architecture's 160."""

PREPROCESSING: dict[str, dict[str, Any]] = {
    "test_resnet": {"crop_mode": "center", "crop_pct": 0.875, "interpolation": "bicubic"},
    "test_vit": {"crop_mode": "squash", "crop_pct": 0.9, "interpolation": "bilinear"},
}

IMAGES = {"tall": ("RGB", (90, 130)), "exact": ("RGB", (64, 64)), "tiny": ("RGB", (20, 31)), "gray": ("L", (70, 50))}
"""Mode, width and height."""

WITH_TIMM = """
import json, sys, timm, torch
from pathlib import Path
from PIL import Image
from safetensors.torch import save_file
out, images = Path(sys.argv[1]), [Image.open(path).convert("RGB") for path in sys.argv[2].split("|")]
for repo in sys.argv[3:]:
    model = timm.create_model(f"hf-hub:{repo}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    pixels = torch.stack([transform(image) for image in images])
    with torch.inference_mode():
        logits = model(pixels)
    name = repo.split("/")[1]
    save_file({"pixels": pixels, "logits": logits}, out / f"{name}.outputs")
    save_file(model.state_dict(), out / f"{name}.weights")
    seen = {"pretrained_cfg": model.pretrained_cfg}
    (out / f"{name}.json").write_text(json.dumps(seen))
assert not [name for name in sys.modules if name.startswith("ssia_zoo")]
"""

WITH_TRANSFORMERS = """
import json, numpy, sys, torch
from pathlib import Path
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
out, images = Path(sys.argv[1]), [Image.open(path).convert("RGB") for path in sys.argv[2].split("|")]
for repo in sys.argv[3:]:
    model, report = AutoModelForImageClassification.from_pretrained(repo, output_loading_info=True)
    processor = AutoImageProcessor.from_pretrained(repo)
    pixels = processor(images, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        logits = model.eval()(pixels).logits
    name = repo.split("/")[1]
    save_file({"pixels": pixels, "logits": logits}, out / f"{name}.outputs")
    save_file({k.removeprefix("timm_model."): v for k, v in model.state_dict().items()}, out / f"{name}.weights")
    seen = {"dtype": str(model.dtype), "id2label": model.config.id2label, "label2id": model.config.label2id}
    seen["pipeline"] = pipeline("image-classification", model=repo)(sys.argv[2].split("|")[0], top_k=5)
    seen["problems"] = {kind: sorted(map(str, keys)) for kind, keys in report.items() if keys}
    arrays = processor([numpy.asarray(image) for image in images], return_tensors="pt")["pixel_values"]
    seen["arrays_agree"] = torch.equal(arrays, pixels)
    (out / f"{name}.json").write_text(json.dumps(seen))
assert not [name for name in sys.modules if name.startswith("ssia_zoo")]
"""


@dataclass(frozen=True)
class Loaded:
    """What a process without this package loaded from one repository."""

    seen: dict[str, Any]
    outputs: dict[str, torch.Tensor]
    weights: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Everyone:
    """The published file, and what each library loaded, by architecture."""

    stored: dict[str, dict[str, torch.Tensor]]
    timm: dict[str, Loaded]
    transformers: dict[str, Loaded]


def load_elsewhere(script: str, out: Path, images: list[Path], endpoint: str) -> dict[str, Loaded]:
    """Load every repository in a new process without this package."""
    out.mkdir()
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "HF_TOKEN", "HF_HUB_OFFLINE")}
    environment = {**kept, "HF_ENDPOINT": endpoint, "HF_HOME": str(out / "hf_home"), "HF_HUB_OFFLINE": "0"}
    environment["HF_HUB_CACHE"] = str(out / "hf_home" / "hub")
    command = [sys.executable, "-c", script, str(out), "|".join(map(str, images)), *REPOS.values()]
    done = subprocess.run(command, env=environment, cwd=out, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = {}
    for arch, repo in REPOS.items():
        path = out / f"{repo.split('/')[1]}.json"
        outputs, weights = (load_file(path.with_suffix(suffix)) for suffix in (".outputs", ".weights"))
        loaded[arch] = Loaded(json.loads(path.read_text()), outputs, weights)
    return loaded


@pytest.fixture(scope="module")
def everyone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Everyone]:
    """Two weights published once and loaded once by each library."""
    folder = tmp_path_factory.mktemp("everyone")
    random = np.random.default_rng(0)
    images = []
    for name, (mode, (width, height)) in IMAGES.items():
        shape = (height, width, 3) if mode == "RGB" else (height, width)
        images.append(folder / f"{name}.png")
        Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8), mode).save(images[-1])
    for arch in REPOS:
        write_toy_weight(folder / "hub_configs", arch, **PREPROCESSING[arch])
    with (
        HubServer(tokens={"hf_good": "alice"}, orgs={"alice": ["org"]}) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        close_session()
        published = publish_all("org", token="hf_good", endpoint=server.url, hub_configs=folder / "hub_configs")
        assert [item.repo_id for item in published] == list(REPOS.values())
        stored = {}
        for arch, repo in REPOS.items():
            (folder / f"{arch}.safetensors").write_bytes(server.file(repo, "model.safetensors"))
            stored[arch] = load_file(folder / f"{arch}.safetensors")
        yield Everyone(
            stored=stored,
            timm=load_elsewhere(WITH_TIMM, folder / "timm", images, server.url),
            transformers=load_elsewhere(WITH_TRANSFORMERS, folder / "transformers", images, server.url),
        )
    close_session()


@pytest.fixture(params=list(REPOS))
def arch(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_both_libraries_hold_exactly_the_published_tensors(everyone: Everyone, arch: str) -> None:
    for loaded in (everyone.timm[arch], everyone.transformers[arch]):
        assert loaded.weights.keys() == everyone.stored[arch].keys()
        for name, tensor in everyone.stored[arch].items():
            assert loaded.weights[name].dtype == tensor.dtype, name
            assert torch.equal(loaded.weights[name], tensor), name
    assert everyone.transformers[arch].seen["problems"] == {}


def test_the_model_computes_in_float32_everywhere(everyone: Everyone, arch: str) -> None:
    # transformers keeps the file's dtype: it would run a float16 file in float16.
    assert everyone.transformers[arch].seen["dtype"] == "torch.float32"
    floats = [tensor for tensor in everyone.stored[arch].values() if tensor.is_floating_point()]
    assert {tensor.dtype for tensor in floats} == {torch.float32}


def test_class_names_are_loaded(everyone: Everyone, arch: str) -> None:
    seen = everyone.transformers[arch].seen
    assert seen["id2label"] == {str(index): name for index, name in enumerate(CLASSES)}
    assert seen["label2id"] == {name: index for index, name in enumerate(CLASSES)}
    assert everyone.timm[arch].outputs["logits"].shape == (len(IMAGES), len(CLASSES))


def test_both_libraries_compute_the_same_pixels_and_logits(everyone: Everyone, arch: str) -> None:
    """For PIL images and arrays; tensors are resized by torch, whose filter differs from PIL's in the last bits."""
    ours, theirs = everyone.timm[arch].outputs, everyone.transformers[arch].outputs
    assert ours["pixels"].shape == (len(IMAGES), 3, 64, 64)
    assert torch.equal(theirs["pixels"], ours["pixels"])
    assert everyone.transformers[arch].seen["arrays_agree"]
    torch.testing.assert_close(theirs["logits"], ours["logits"])
    cfg = everyone.timm[arch].seen["pretrained_cfg"]
    assert cfg["input_size"] == [3, 64, 64]
    assert cfg["mean"] == [0.5, 0.45, 0.4]
    assert {name: cfg[name] for name in PREPROCESSING[arch]} == PREPROCESSING[arch]


def test_the_pipeline_names_the_class_that_timm_finds(everyone: Everyone, arch: str) -> None:
    answer = everyone.transformers[arch].seen["pipeline"]
    chances = everyone.timm[arch].outputs["logits"][0].softmax(dim=0)
    expected = {name: float(chance) for name, chance in zip(CLASSES, chances, strict=True)}
    assert {entry["label"]: entry["score"] for entry in answer} == pytest.approx(expected, abs=1e-4)
    assert answer[0]["label"] == max(expected, key=lambda name: expected[name])
