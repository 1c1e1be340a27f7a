"""Fine-tuning from a head that already has the data's classes: kept, each class by its name."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from ssia_zoo.data.preprocessing import model_preprocessing
from ssia_zoo.errors import ConfigError
from ssia_zoo.models.saving import write_model_folder
from ssia_zoo.training.arguments import parse_config
from ssia_zoo.training.machine import build_model
from tests.helpers.runs import flags

NAMES = ["cat", "dog", "bird", "fish"]
HEADS = {
    "test_resnet": ("fc",),
    "test_efficientnet": ("classifier",),
    "test_vit": ("head",),
    "test_convnext": ("head.fc",),
}


def base(folder: Path, arch: str = "test_resnet", names: Any = NAMES, classes: int = 4) -> Any:
    """A trained model's folder, and the model."""
    torch.manual_seed(1)
    model = timm.create_model(arch, num_classes=classes)
    folder.mkdir()
    write_model_folder(
        model,
        folder,
        architecture=arch,
        label_names=names,
        preprocessing=model_preprocessing(model),
        metadata={},
        card="",
    )
    return model


def fine_tuned(folder: Path, label_names: list[str]) -> Any:
    config = parse_config(flags(output_dir=folder, model=f"local-dir:{folder}", pretrained=True, image_size=64))
    torch.manual_seed(2)
    return build_model(config, len(label_names), label_names)[0]


def head(model: Any, path: str) -> tuple[torch.Tensor, torch.Tensor]:
    module = model.get_submodule(path)
    return module.weight.detach(), module.bias.detach()


@pytest.mark.parametrize("arch", HEADS)
@pytest.mark.parametrize(
    "label_names", [NAMES, ["fish", "bird", "cat", "dog"], ["fish", "cat"]], ids=["same", "order", "part"]
)
def test_a_head_that_has_the_classes_is_kept_by_name(
    tmp_path: Path, arch: str, label_names: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ssia_zoo")
    before = base(tmp_path / "base", arch)
    model = fine_tuned(tmp_path / "base", label_names)
    rows = [NAMES.index(name) for name in label_names]
    for path in HEADS[arch]:
        for ours, theirs in zip(head(model, path), head(before, path), strict=True):
            assert torch.equal(ours, theirs[rows])
    assert sum("the head is kept" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize("label_names", [["cat", "dog", "bird", "zebra"], ["a", "b", "c", "d"], ["cat", "zebra"]])
def test_a_head_of_other_classes_is_made_anew(
    tmp_path: Path, label_names: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ssia_zoo")
    before = base(tmp_path / "base")
    weight, _ = head(fine_tuned(tmp_path / "base", label_names), "fc")
    old = head(before, "fc")[0]
    assert not any(torch.equal(row, other) for row in weight for other in old)
    assert "a new head" in caplog.text
    assert torch.equal(fine_tuned(tmp_path / "base", label_names).layer1[0].conv1.weight, before.layer1[0].conv1.weight)


@pytest.mark.parametrize(
    ("own", "label_names"), [(["0", "1", "2", "3"], NAMES), (NAMES, ["0", "1", "2", "3"])], ids=["model", "data"]
)
def test_where_names_are_unknown_the_head_is_kept_by_position_with_a_warning(
    tmp_path: Path, own: list[str], label_names: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    before = base(tmp_path / "base", names=own)
    model = fine_tuned(tmp_path / "base", label_names)
    assert torch.equal(head(model, "fc")[0], head(before, "fc")[0])
    assert [r.message for r in caplog.records if "kept by position" in r.message and r.levelno == logging.WARNING]


def test_a_classifier_that_cannot_be_found_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base(tmp_path / "base")
    config = (tmp_path / "base" / "config.json").read_text(encoding="utf-8")
    (tmp_path / "base" / "config.json").write_text(config.replace('"classifier": "fc"', '"classifier": null'))
    with pytest.raises(ConfigError, match="its classifier is not known"):
        fine_tuned(tmp_path / "base", NAMES[::-1])
    fine_tuned(tmp_path / "base", NAMES)


def test_fine_tuning_inherits_the_preprocessing_unless_a_flag_says_otherwise(tmp_path: Path) -> None:
    base(tmp_path / "base")
    path = tmp_path / "base" / "config.json"
    text = path.read_text(encoding="utf-8").replace('"crop_mode": "center"', '"crop_mode": "squash"')
    path.write_text(text.replace('"interpolation": "bicubic"', '"interpolation": "bilinear"'), encoding="utf-8")
    given = {"output_dir": tmp_path, "model": f"local-dir:{path.parent}", "image_size": 64}
    own = timm.create_model(f"local-dir:{path.parent}").pretrained_cfg
    for settings, expected in (
        ({"pretrained": True}, ("bilinear", own["crop_pct"], "squash")),
        ({"pretrained": True, "crop_mode": "border", "crop_pct": 0.7}, ("bilinear", 0.7, "border")),
        ({"pretrained": True, "interpolation": "box"}, ("box", own["crop_pct"], "squash")),
        ({}, ("bicubic", 1.0, "center")),
    ):
        _, found = build_model(parse_config(flags(**given, **settings)), 4)
        assert (found.interpolation, found.crop_pct, found.crop_mode) == expected
        assert (found.mean, found.std) == (tuple(own["mean"]), tuple(own["std"]))
