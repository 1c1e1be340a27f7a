"""Stage attention, Grad-CAM and their figure."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from ssia_zoo.errors import ConfigError
from ssia_zoo.inference.classifier import Classifier
from ssia_zoo.inference.explain import check_writable, class_map, draw, explain

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize("arch", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet", "test_byobnet"])
def test_stages_and_class_map_of_any_family(arch: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(arch, num_classes=5)
    seen = explain(arch, Classifier(model), PICTURE)
    assert seen.pixels.shape == (160, 160, 3)
    assert 0 <= seen.pixels.min() <= seen.pixels.max() <= 1
    assert all(stage.sum() == pytest.approx(1, rel=1e-4) for stage in seen.stages)
    assert seen.class_map is not None
    assert seen.class_map.values.shape == seen.stages[seen.class_map.stage].shape
    assert seen.class_map.values.min() >= 0


SMALL_SWIN = {"img_size": 64, "embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8), "window_size": 4}


@pytest.mark.parametrize(("arch", "options"), [("test_resnet", {}), ("swin_tiny_patch4_window7_224", SMALL_SWIN)])
def test_the_class_map_is_grad_cam(arch: str, options: dict) -> None:
    """α_k by finite differences: the change of y when all positions of channel k rise, divided by their number."""
    torch.manual_seed(0)
    model = timm.create_model(arch, num_classes=3, **options).eval().double()
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    found = class_map(model, image, 1)
    assert found is not None
    last = model.get_submodule(model.feature_info[-1]["module"])
    kept: list[torch.Tensor] = []
    nhwc = arch.startswith("swin")
    shift = 0.0
    channel = 0

    def change(module: nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        kept.append(output)
        changed = output.clone()
        changed[(..., channel) if nhwc else (slice(None), channel)] += shift
        return changed

    last.register_forward_hook(change)
    logits = {}
    with torch.no_grad():
        model(image)
        activation = kept[-1].permute(0, 3, 1, 2) if nhwc else kept[-1]
        expected = torch.zeros(activation.shape[2:], dtype=torch.float64)
        for channel in range(activation.shape[1]):
            for shift in (1e-4, -1e-4):
                logits[shift] = model(image)[0, 1]
            alpha = (logits[1e-4] - logits[-1e-4]) / 2e-4 / expected.numel()
            expected += alpha * activation[0, channel]
    np.testing.assert_allclose(found.values, expected.relu().numpy(), rtol=1e-3, atol=1e-5)


def test_a_stage_of_one_position_is_not_used() -> None:
    model = timm.create_model("test_resnet", num_classes=3)
    found = class_map(model, torch.randn(1, 3, 32, 32), 0)
    assert found is not None
    assert found.values.size > 1


def test_a_vit_with_a_class_token_uses_the_stage_below_the_last() -> None:
    model = timm.create_model("test_vit", num_classes=3)
    nn.init.normal_(model.head.weight)
    found = class_map(model, torch.randn(1, 3, 160, 160), 0)
    assert found is not None
    assert found.stage == 2


def test_the_model_is_not_changed() -> None:
    model = timm.create_model("test_resnet", num_classes=3).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    class_map(model, torch.randn(1, 3, 64, 64), 0)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_figure_has_a_row_per_model(tmp_path: Path) -> None:
    rows = [explain(name, Classifier(timm.create_model("test_resnet", num_classes=3)), PICTURE) for name in "ab"]
    heights = []
    for count in (1, 2):
        path = tmp_path / "x.png"  # the second replaces the first
        draw(rows[:count], "a picture", path)
        heights.append(Image.open(path).height)
        assert [file.name for file in tmp_path.iterdir()] == ["x.png"]
    assert heights[1] > 1.5 * heights[0]


@pytest.mark.parametrize("name", ["$5_$10", "猫"])
def test_any_name_can_be_drawn(tmp_path: Path, name: str) -> None:
    model = timm.create_model("test_resnet", num_classes=3)
    model.pretrained_cfg["label_names"] = [name, f"{name}2", f"{name}3"]
    draw([explain(name, Classifier(model), PICTURE)], f"{name}.png", tmp_path / "x.png")
    assert Image.open(tmp_path / "x.png").format == "PNG"


def test_an_unwritable_path_is_an_error_and_nothing_changes(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    (tmp_path / "folder.png").mkdir()
    for wrong in (file / "x.png", tmp_path / "folder.png", tmp_path / "x.jpg"):
        with pytest.raises(ConfigError, match="`out` is"):
            check_writable(wrong, tmp_path / "image.png")
    old = tmp_path / "old.png"
    old.write_bytes(b"old")
    check_writable(old, tmp_path / "image.png")
    check_writable(tmp_path / "new.png", tmp_path / "image.png")
    assert old.read_bytes() == b"old"
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder.png", "old.png"}


def test_the_image_itself_is_not_replaced(tmp_path: Path) -> None:
    image = tmp_path / "mine.png"
    image.write_bytes(b"mine")
    (tmp_path / "link.png").symlink_to(image)
    for out in (image, tmp_path / "link.png", tmp_path / "." / "mine.png"):
        with pytest.raises(ConfigError, match="which is the image itself"):
            check_writable(out, image)


def test_a_name_that_is_not_utf8_can_be_drawn(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    row = explain(name, Classifier(timm.create_model("test_resnet", num_classes=3)), PICTURE)
    draw([row], name, tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 1000
