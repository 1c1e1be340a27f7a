"""Build the model to train: pretrained heads matched by class name, and the settings that change the model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models._registry import _model_to_module
from timm.task import TrainingTask

from ssia_zoo.data.preprocessing import model_preprocessing
from ssia_zoo.errors import ConfigError
from ssia_zoo.models.features import TimmModel
from ssia_zoo.models.saving import write_model_folder
from ssia_zoo.training.arguments import parse_config
from ssia_zoo.training.config import TrainConfig
from ssia_zoo.training.methods import create_task
from ssia_zoo.training.model import _checkpoint_gradients, build_model
from tests.helpers.runs import flags, small_run, weights

SHORT = {"max_train_images": 32, "epochs": 1, "val_interval": 0}
UNUSED = "saves no memory"
NAMES = ["cat", "dog", "bird", "fish"]
HEADS = {
    "test_resnet": ("fc",),
    "test_efficientnet": ("classifier",),
    "test_vit": ("head",),
    "test_convnext": ("head.fc",),
}


def base(folder: Path, arch: str = "test_resnet", names: Any = NAMES, classes: int = 4) -> Any:
    """Write a trained model's folder and return the model."""
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
    with pytest.raises(ConfigError, match="its pretrained_cfg does not name the classifier"):
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


def checkpointed(model: str, method: str, caplog: pytest.LogCaptureFixture) -> bool:
    """Return whether gradient checkpointing saves memory; raise if the model does not support it."""
    caplog.clear()
    student = timm.create_model(model, num_classes=10)
    config = TrainConfig(model=model, method=method)
    with caplog.at_level(logging.WARNING):
        _checkpoint_gradients(student, config, student.pretrained_cfg["input_size"])
    return UNUSED not in caplog.text


@pytest.mark.covers("grad_checkpointing")
@pytest.mark.parametrize("model", ["test_vit", "test_convnext", "test_resnet"])
def test_gradient_checkpointing_changes_no_weight(tmp_path: Path, model: str) -> None:
    settings = {"model": model, "drop_path_rate": 0.1, **SHORT}
    small_run(tmp_path / "with", grad_checkpointing=True, **settings)
    small_run(tmp_path / "without", **settings)
    one, other = weights(tmp_path / "with"), weights(tmp_path / "without")
    running = {name for name in one if "running_" in name or "num_batches" in name}
    differing = {name for name in one if not torch.equal(one[name], other[name])}
    # Checkpointing runs BatchNorm twice, which updates its running statistics twice (docs/training_features.md).
    assert differing <= running
    assert bool(differing) == bool(running)


@pytest.mark.parametrize("method", ["ssia", "vanilla"])
@pytest.mark.parametrize("model", ["test_vit", "test_convnext", "test_resnet", "test_efficientnet"])
def test_gradient_checkpointing_saves_memory_in_both_forwards(
    model: str, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert checkpointed(model, method, caplog)


def test_a_model_that_makes_no_use_of_gradient_checkpointing_is_named(caplog: pytest.LogCaptureFixture) -> None:
    class Ignoring(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x).square().mean((2, 3))

        def set_grad_checkpointing(self, enable: bool = True) -> None:
            pass

    with caplog.at_level(logging.WARNING):
        _checkpoint_gradients(Ignoring(), TrainConfig(model="ignoring", method="vanilla"), (3, 32, 32))
    assert f"`grad_checkpointing` {UNUSED}" in caplog.text
    assert "ignoring" in caplog.text


@pytest.mark.covers("drop_rate", "drop_path_rate")
@pytest.mark.parametrize("method", ["ssia", "vanilla"])
@pytest.mark.parametrize("setting", ["drop_rate", "drop_path_rate"])
def test_dropout_and_stochastic_depth_make_training_random_and_nothing_else(setting: str, method: str) -> None:
    def losses(training: bool, **settings: object) -> set[float]:
        config = TrainConfig(model="test_vit", method=method, image_size=64, **settings)
        model, preprocessing = build_model(config, 10)
        task = create_task(model, config, preprocessing.input_size).train(training)
        images, labels = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)), torch.arange(4)
        return {task(images, labels)["loss"].item() for _ in range(4)}

    torch.manual_seed(0)
    assert len(losses(True)) == 1
    assert len(losses(True, **{setting: 0.5})) > 1
    assert len(losses(False, **{setting: 0.5})) == 1


@pytest.mark.covers("channels_last")
@pytest.mark.parametrize("method", ["ssia", "vanilla"])
def test_channels_last_is_the_layout_of_weights_and_of_all_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    seen: set[tuple[str, bool, bool]] = set()

    def watch(model: TimmModel, *arguments: Any, **kind: bool) -> TrainingTask:
        def note(layer: torch.nn.Conv2d, inputs: tuple[torch.Tensor]) -> None:
            for name, tensor in (("images", inputs[0]), ("weight", layer.weight)):
                seen.add((name, layer.training, tensor.is_contiguous(memory_format=torch.channels_last)))

        task = create_task(model, *arguments, **kind)
        next(layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d)).register_forward_pre_hook(note)
        return task

    monkeypatch.setattr("ssia_zoo.training.run.create_task", watch)
    for channels_last in (False, True):
        seen.clear()
        small_run(tmp_path / str(channels_last), channels_last=channels_last, method=method, max_steps=1)
        assert seen == {(name, training, channels_last) for name in ("images", "weight") for training in (False, True)}


def test_a_batch_of_one_is_fine_for_a_model_without_batch_statistics(tmp_path: Path) -> None:
    small_run(tmp_path / "run", model="test_vit", batch_size=1, max_steps=1, max_eval_images=2)


def families() -> list[str]:
    """Return the name of one model of each of timm's families."""
    first: dict[str, str] = {}
    for name in sorted(timm.list_models(), key=len):
        first.setdefault(_model_to_module[name], name)
    return sorted(first.values())


@pytest.mark.slow
@pytest.mark.parametrize("model", families())
def test_every_family_that_offers_gradient_checkpointing_uses_it_in_both_forwards(
    model: str, caplog: pytest.LogCaptureFixture
) -> None:
    try:
        with torch.device("meta"):  # only shapes and sizes matter
            used = [checkpointed(model, method, caplog) for method in ("ssia", "vanilla")]
    except ConfigError as error:
        pytest.skip(str(error))
    assert used == [True, True]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "mobilenetv3_small_050", "batch_size": 1}, "`batch_size` is 1"),
        ({"model": "dla46_c", "grad_checkpointing": True}, "dla46_c does not support it"),
    ],
    ids=["batch", "checkpointing"],
)
def test_what_a_model_cannot_do_is_refused_in_one_line(
    tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        small_run(tmp_path / "run", **settings)
    assert "\n" not in str(caught.value)
