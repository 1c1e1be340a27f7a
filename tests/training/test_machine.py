"""What a run stands on: the model as the settings want it, and what this machine cannot do."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from accelerate.state import AcceleratorState
from accelerate.utils import is_compiled_module
from timm.models._registry import _model_to_module
from timm.task import TrainingTask

from ssia_zoo.errors import ConfigError
from ssia_zoo.models.features import TimmModel
from ssia_zoo.training.config import TrainConfig
from ssia_zoo.training.launcher import resolve_launcher
from ssia_zoo.training.machine import _checkpoint_gradients, build_accelerator, build_model
from ssia_zoo.training.methods import create_task
from tests.helpers.runs import small_run, weights

SHORT = {"max_train_images": 32, "epochs": 1, "val_interval": 0}
UNUSED = "saves nothing here"


def checkpointed(model: str, method: str, caplog: pytest.LogCaptureFixture) -> bool:
    """Whether gradient checkpointing does something; what the model does not offer is an error."""
    caplog.clear()
    student = timm.create_model(model, num_classes=10)
    config = TrainConfig(model=model, method=method)
    with caplog.at_level(logging.WARNING):
        _checkpoint_gradients(student, config, student.pretrained_cfg["input_size"][-1])
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
    # A recomputed BatchNorm takes its batch's statistics into the running ones twice; docs/training.md says so.
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
        _checkpoint_gradients(Ignoring(), TrainConfig(model="ignoring", method="vanilla"), 32)
    assert f"--grad-checkpointing {UNUSED}" in caplog.text
    assert "ignoring" in caplog.text


@pytest.mark.covers("sync_bn")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sync_bn": True}, "--sync-bn needs GPUs"),
        ({"model": "mobilenetv3_small_050", "batch_size": 1}, "--batch-size 1"),
        ({"model": "dla46_c", "grad_checkpointing": True}, "dla46_c does not offer it"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_is_one_line(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        small_run(tmp_path / "run", **settings)
    assert "\n" not in str(caught.value)


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


@pytest.mark.covers("compile")
def test_what_is_prepared_is_compiled_if_asked_for() -> None:
    for compiled in (True, False):
        accelerator = build_accelerator(resolve_launcher(TrainConfig(compile=compiled)))
        assert is_compiled_module(accelerator.prepare(torch.nn.Linear(1, 1))) == compiled
        accelerator.free_memory()
        AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.covers("compile_backend", "compile_mode")
def test_the_compiler_and_its_mode_reach_the_accelerator() -> None:
    config = TrainConfig(compile=True, compile_backend="eager", compile_mode="reduce-overhead")
    plugin = build_accelerator(config).state.dynamo_plugin
    assert (plugin.backend.value, plugin.mode) == ("EAGER", "reduce-overhead")


@pytest.mark.covers("channels_last")
@pytest.mark.parametrize("method", ["ssia", "vanilla"])
def test_channels_last_is_the_layout_of_weights_and_of_all_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    seen: set[tuple[str, bool, bool]] = set()

    def watch(model: TimmModel, *arguments: Any) -> TrainingTask:
        def note(layer: torch.nn.Conv2d, inputs: tuple[torch.Tensor]) -> None:
            for name, tensor in (("images", inputs[0]), ("weight", layer.weight)):
                seen.add((name, layer.training, tensor.is_contiguous(memory_format=torch.channels_last)))

        task = create_task(model, *arguments)
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
    """One model of each of timm's families that has a classifier and gradient checkpointing, by name."""
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
        with torch.device("meta"):  # shapes and sizes are all that is looked at
            used = [checkpointed(model, method, caplog) for method in ("ssia", "vanilla")]
    except ConfigError as error:
        pytest.skip(str(error))
    assert used == [True, True]
