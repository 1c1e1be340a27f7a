"""What a run stands on: the model as the settings want it, and what this machine cannot do."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import timm
import torch
from conftest import small_run, weights
from timm.models._registry import _model_to_module

from ssia_zoo.errors import ConfigError
from ssia_zoo.training.config import TrainConfig
from ssia_zoo.training.setup import _checkpoint_gradients

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
