"""Runs on one and four channels, and on input that is not square: trained, saved, and loaded by others."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.models import adapt_input_conv

from ssia_zoo.data import DataConfig
from ssia_zoo.data.preprocessing import model_preprocessing
from ssia_zoo.errors import ConfigError, TrainingError
from ssia_zoo.evaluation.validate import validate
from ssia_zoo.evaluation.verify import verify
from ssia_zoo.inference.classifier import Classifier
from ssia_zoo.inference.explain import explain
from ssia_zoo.inference.images import read_image
from ssia_zoo.models.saving import write_model_folder
from ssia_zoo.training.arguments import parse_config
from ssia_zoo.training.model import build_model
from tests.helpers.runs import flags, small_run

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
FIRST = {
    "test_resnet": "conv1.0.weight",
    "test_vit": "patch_embed.proj.weight",
    "test_efficientnet": "conv_stem.weight",
}
SHORT: dict[str, Any] = {
    "epochs": 1,
    "max_steps": 1,
    "max_train_images": 32,
    "max_eval_images": 16,
    "method": "vanilla",
}


def colour_folder(folder: Path, mode: str = "RGBA", size: tuple[int, int] = (40, 24)) -> Path:
    """Write a data set of two classes, of images of random pixels."""
    numbers = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for index in range(count):
            path = folder / split / "ab"[index % 2] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = numbers.integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
            Image.fromarray(pixels).convert(mode).save(path)
    return folder


def base(folder: Path, arch: str) -> Any:
    """Write a pretrained model of three channels with a mean per channel, and return the model."""
    torch.manual_seed(1)
    cfg = {"mean": (0.2, 0.4, 0.6), "std": (0.1, 0.2, 0.3), "input_size": (3, 32, 32)}
    model = timm.create_model(arch, num_classes=2, pretrained_cfg_overlay=cfg)
    folder.mkdir()
    described = {"architecture": arch, "label_names": ["x", "y"], "metadata": {}, "card": ""}
    write_model_folder(model, folder, preprocessing=model_preprocessing(model), **described)
    return model


@pytest.mark.covers("in_chans")
@pytest.mark.parametrize("arch", FIRST)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_first_layer_mean_and_std_are_adapted_as_timm_does(
    tmp_path: Path, arch: str, channels: int, caplog: pytest.LogCaptureFixture
) -> None:
    before = base(tmp_path / "base", arch).state_dict()[FIRST[arch]]
    caplog.set_level(logging.INFO, "ssia_zoo")
    given = {"model": f"local-dir:{tmp_path / 'base'}", "output_dir": tmp_path, "pretrained": True}
    model, preprocessing = build_model(parse_config(flags(**given, in_chans=channels)), 2, ["a", "b"])
    assert torch.equal(model.state_dict()[FIRST[arch]], adapt_input_conv(channels, before))
    assert preprocessing.input_size == (channels, 32, 32)
    own = channels == 3
    assert preprocessing.mean == pytest.approx((0.2, 0.4, 0.6) if own else (0.4,) * channels)
    assert preprocessing.std == pytest.approx((0.1, 0.2, 0.3) if own else (0.2,) * channels)
    assert ("averages over the channels; timm adapts the first layer's weights" in caplog.text) is not own


@pytest.mark.covers("in_chans")
@pytest.mark.parametrize("channels", [1, 4])
def test_a_run_of_other_channels_is_loaded_by_timm_predicted_validated_and_verified(
    tmp_path: Path, channels: int, caplog: pytest.LogCaptureFixture
) -> None:
    data = colour_folder(tmp_path / "data")
    result = small_run(tmp_path / "run", **SHORT, dataset=data, in_chans=channels, batch_size=4)
    model = timm.create_model(f"local-dir:{tmp_path / 'run'}", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(model)
    assert config["input_size"] == (channels, 32, 32)
    assert len(config["mean"]) == len(config["std"]) == channels
    path = data / "val" / "a" / "0.png"
    image = Image.open(path)
    pixels = timm.data.create_transform(**config)(image.convert(MODES[channels]))
    classifier = Classifier(model)
    assert torch.equal(classifier.prepare(read_image(path)), pixels)
    photo = tmp_path / "photo.jpg"
    image.convert("RGB").save(photo)
    caplog.clear()
    assert len(list(classifier.predict([photo, photo], pytest.fail))) == 2
    assert [record.message for record in caplog.records if "images are" in record.message] == (
        ["images are converted to greyscale (Pillow's mode L), as the model takes one channel"] * 0
        if channels == 1
        else [
            "images are given an opaque fourth channel, as they have no transparency and the model takes four channels"
        ]
    )
    measured = validate(model, DataConfig(str(data), workers=0))
    assert measured["top1"] == pytest.approx(result.metrics["top1"])
    assert measured["loss"] == pytest.approx(result.metrics["loss"], rel=1e-4)
    assert verify(str(tmp_path / "run")).ok
    explained = explain("x", classifier, read_image(path))
    assert explained.pixels.shape == (32, 32, 3)


def test_transparency_that_three_channels_drop_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = colour_folder(tmp_path / "data")
    small_run(tmp_path / "run", **SHORT, dataset=data, batch_size=4)
    expected = "images are stripped of their transparency (the colours below it are kept), as the model takes RGB"
    assert f"{expected}: 4 of 4 sampled" in caplog.text


@pytest.mark.covers("image_size")
@pytest.mark.parametrize("arch", ["test_resnet", "test_vit"])
def test_a_run_of_an_input_that_is_not_square_is_loaded_by_timm_validated_and_continued(
    tmp_path: Path, arch: str
) -> None:
    data = colour_folder(tmp_path / "data", "RGB")
    settings = {**SHORT, "model": arch, "dataset": data, "image_size": (32, 64), "batch_size": 4}
    result = small_run(tmp_path / "run", **settings)
    model = timm.create_model(f"local-dir:{tmp_path / 'run'}", pretrained=True).eval()
    assert model.pretrained_cfg["input_size"] == (3, 32, 64)
    if arch == "test_vit":
        assert model.patch_embed.img_size == (32, 64)
    measured = validate(model, DataConfig(str(data), workers=0))
    assert measured["loss"] == pytest.approx(result.metrics["loss"], rel=1e-4)
    assert Classifier(model).prepare(Image.new("RGB", (50, 50))).shape == (3, 32, 64)
    assert verify(str(tmp_path / "run")).ok
    # fine-tuned at another size: timm resizes the position embeddings from the saved grid
    again = {**SHORT, "model": f"local-dir:{tmp_path / 'run'}", "dataset": data, "pretrained": True, "batch_size": 4}
    small_run(tmp_path / "taller", **again, image_size=(64, 32))
    with pytest.raises(TrainingError, match=r"image_size \(\[32, 64\] -> \[64, 32\]\)"):
        small_run(tmp_path / "run", **{**settings, "image_size": (64, 32)}, resume="auto")


WITH_TRANSFORMERS = """
import sys, torch
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoImageProcessor, AutoModelForImageClassification
folder, mode, image, out = sys.argv[1:]
model = AutoModelForImageClassification.from_pretrained(folder).eval()
processor = AutoImageProcessor.from_pretrained(folder)
pixels = processor(Image.open(image).convert(mode), return_tensors="pt")["pixel_values"]
with torch.inference_mode():
    save_file({"pixels": pixels, "logits": model(pixels).logits}, out)
"""


def test_transformers_loads_one_channel_of_an_input_that_is_not_square(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    data = colour_folder(tmp_path / "data")
    small_run(tmp_path / "run", **SHORT, model="test_vit", dataset=data, in_chans=1, image_size=(32, 48), batch_size=4)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["pretrained_cfg"]["input_size"] == [1, 32, 48]
    assert config["model_args"]["in_chans"] == 1
    assert config["ssia"]["training"]["image_size"] == [32, 48]
    image = data / "val" / "a" / "0.png"
    arguments = [tmp_path / "run", "L", image, tmp_path / "seen.safetensors"]
    subprocess.run([sys.executable, "-c", WITH_TRANSFORMERS, *map(str, arguments)], check=True, timeout=200)
    seen = load_file(tmp_path / "seen.safetensors")
    model = timm.create_model(f"local-dir:{tmp_path / 'run'}", pretrained=True).eval()
    expected = Classifier(model).prepare(read_image(image))[None]
    torch.testing.assert_close(seen["pixels"], expected)
    with torch.inference_mode():
        torch.testing.assert_close(seen["logits"], model(expected))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_kwargs": "in_chans=1"}, "`model_kwargs` in_chans=1: use `in_chans`; leave it out"),
        ({"model": "test_vit", "image_size": (33, 47)}, "`model` test_vit cannot take images of size 3x33x47"),
        ({"model": "efficientformer_l1", "image_size": (64, 128)}, "`model` efficientformer_l1"),
    ],
)
def test_an_input_that_the_model_cannot_have_is_refused_in_one_line(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        build_model(parse_config(flags(output_dir=tmp_path, **settings)), 2)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.covers("train_image_size")
def test_training_images_may_be_smaller_than_the_models_input(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    seen: set[tuple[bool, tuple[int, ...]]] = set()

    def record(module: torch.nn.Module, images: tuple[torch.Tensor, ...]) -> None:
        if len(images[0]) > 1:  # not a trial of one blank image
            seen.add((module.training, tuple(images[0].shape[1:])))

    with torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, images: record(module, images) if isinstance(module, timm.models.ResNet) else None
    ):
        result = small_run(tmp_path / "run", image_size=(32, 40), train_image_size=(24, 28), **SHORT)
    assert seen == {(True, (3, 24, 28)), (False, (3, 32, 40))}
    assert "training images are 24x28, evaluation images 32x40" in caplog.text
    described = json.loads((result.folder / "config.json").read_text())
    assert described["pretrained_cfg"]["input_size"] == [3, 32, 40]


def test_a_size_that_the_model_cannot_train_at_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot take images of size 3x48x48"):
        small_run(
            tmp_path / "run", model="test_vit", train_image_size=48, model_kwargs="dynamic_img_size=False", **SHORT
        )
    with pytest.raises(ConfigError, match="`crop_padding` is 4; expected less than `train_image_size` 4"):
        DataConfig(dataset="digits", image_size=32, train_image_size=4, crop_padding=4)
