"""BatchNorm's statistics are those of evaluation's images where training images are smaller."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from ssia_zoo.data import NOT_COUNTED, load_image_data
from ssia_zoo.models.loading import load_model
from ssia_zoo.training.arguments import parse_config
from ssia_zoo.training.batch_norm import EvaluationStatistics, _collecting_layers, evaluation_statistics
from ssia_zoo.training.freezing import freeze
from ssia_zoo.training.lora import add_adapters
from ssia_zoo.training.model import build_model
from tests.helpers.runs import flags, small_run

SMALLER: dict[str, Any] = {"image_size": 32, "train_image_size": 24, "max_train_images": 96, "epochs": 2}


def batches(count: int = 3, images: int = 8) -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    return [(torch.randn(images, 3, 32, 32), torch.zeros(images, dtype=torch.int64)) for _ in range(count)]


def statistics(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items() if "running" in name}


def test_the_statistics_are_the_average_over_the_batches_and_no_weight_changes() -> None:
    model = timm.create_model("test_resnet", num_classes=10)
    images = batches()
    parameters = {name: value.clone() for name, value in model.named_parameters()}
    means = [model.conv1(x).mean((0, 2, 3)) for x, _ in images]
    EvaluationStatistics(_collecting_layers(model), images, channels_last=False).refresh(model)
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(value, parameters[name]) for name, value in model.named_parameters())
    assert torch.allclose(model.bn1.running_mean, torch.stack(means).mean(0), atol=1e-6)
    assert model.bn1.momentum == 0.1, "training goes on with its own momentum"


def test_images_that_cannot_be_read_do_not_count() -> None:
    model = timm.create_model("test_resnet", num_classes=10)
    images, labels = batches(1)[0]
    EvaluationStatistics(_collecting_layers(model), [(images[:6], labels[:6])], channels_last=False).refresh(model)
    without = statistics(model)
    labels[6:] = NOT_COUNTED
    EvaluationStatistics(_collecting_layers(model), [(images, labels)], channels_last=False).refresh(model)
    assert all(torch.equal(value, without[name]) for name, value in statistics(model).items())


def test_frozen_layers_keep_their_statistics() -> None:
    model = timm.create_model("test_resnet", num_classes=10)
    freeze(model, 1, "test_resnet")
    before = statistics(model)
    EvaluationStatistics(_collecting_layers(model), batches(), channels_last=False).refresh(model)
    moved = {name for name, value in statistics(model).items() if not torch.equal(value, before[name])}
    assert moved
    assert not [name for name in moved if name.startswith(("conv1", "bn1", "layer1"))]


@pytest.mark.parametrize("settings", [{}, {"ema": 0.9}, {"holdout": 0.2, "keep_best": True}])
def test_a_run_saves_the_statistics_of_evaluations_size(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, settings: dict[str, Any]
) -> None:
    caplog.set_level(logging.INFO)
    result = small_run(tmp_path / "run", **SMALLER, **settings)
    assert "BatchNorm's statistics are computed from 50 training images of 32x32" in caplog.text
    model = load_model(f"local-dir:{result.folder}")
    saved = statistics(model)
    config = parse_config(flags(output_dir=tmp_path / "other", **SMALLER, **settings))
    data = load_image_data(config)
    own, preprocessing = build_model(config, len(data.label_names), data.label_names)
    found = evaluation_statistics(preprocessing.applied_to(config), own, data, preprocessing)
    assert found is not None
    found.refresh(model)
    for name, value in statistics(model).items():
        assert torch.allclose(value, saved[name], rtol=1e-4, atol=1e-5), name


def test_of_frozen_networks_and_adapters_no_statistics_move() -> None:
    frozen = timm.create_model("test_resnet", num_classes=10)
    freeze(frozen, "head", "test_resnet")
    assert not _collecting_layers(frozen)
    adapted = timm.create_model("test_resnet", num_classes=10)
    add_adapters(adapted, 2, (3, 32, 32), "test_resnet")
    assert not _collecting_layers(adapted)


VIT = {"model": "test_vit", "image_size": 64, "train_image_size": 32, "model_kwargs": "dynamic_img_size=True"}


@pytest.mark.parametrize("settings", [{"train_image_size": None}, VIT])
def test_without_another_size_or_batchnorm_nothing_is_computed(tmp_path: Path, settings: dict[str, Any]) -> None:
    config = parse_config(flags(output_dir=tmp_path, **{**SMALLER, **settings}))
    data = load_image_data(config)
    model, preprocessing = build_model(config, len(data.label_names), data.label_names)
    assert evaluation_statistics(preprocessing.applied_to(config), model, data, preprocessing) is None


def test_each_batch_has_images_of_many_classes_though_the_data_is_sorted(tmp_path: Path) -> None:
    config = parse_config(flags(output_dir=tmp_path, **{**SMALLER, "max_train_images": 1010}))
    data = load_image_data(config)
    model, preprocessing = build_model(config, len(data.label_names), data.label_names)
    data = replace(data, train=data.train.sort(data.label_column))
    found = evaluation_statistics(preprocessing.applied_to(config), model, data, preprocessing)
    assert found is not None
    labels = [labels for _, labels in found.batches]
    assert [len(each) for each in labels] == [50] * 20
    assert all(len(each.unique()) >= 8 for each in labels)
