"""Frozen parts of a pretrained model: what trains, that nothing else moves, which settings contradict each other."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from ssia_zoo.errors import ConfigError
from ssia_zoo.task import SSIATask
from ssia_zoo.training.arguments import parse_config
from ssia_zoo.training.freezing import classifier_parameters, freeze, keep_statistics
from tests.helpers.publishable_folder import make_folder
from tests.helpers.runs import flags, same_weights, small_run, weights

CLASSIFIER = ("fc.weight", "fc.bias")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("base") / "resnet")


def trained(model: torch.nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_the_stem_and_the_first_stages_freeze(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ssia_zoo")
    model = timm.create_model("test_resnet", num_classes=7)
    freeze(model, 2, "test_resnet")
    assert {name.split(".")[0] for name in trained(model)} == {"layer3", "layer4", "fc"}
    count = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert f"frozen: the stem and 2 of 4 stages; {count:,} of " in caplog.text
    freeze(model, 0, "test_resnet")
    assert {name.split(".")[0] for name in trained(model)} == {"layer1", "layer2", "layer3", "layer4", "fc"}


@pytest.mark.parametrize(
    ("arch", "stages"), [("test_resnet", 4), ("test_vit", 6), ("test_efficientnet", 5), ("test_convnext", 4)]
)
def test_too_many_stages_are_refused_with_their_number(arch: str, stages: int) -> None:
    model = timm.create_model(arch, num_classes=7)
    with pytest.raises(ConfigError, match=rf"`freeze` is 9; {arch} has {stages} stages: expected 0 \(the stem alone\)"):
        freeze(model, 9, arch)
    freeze(model, stages, arch)
    assert set(classifier_parameters(model)) <= trained(model)


def test_a_model_without_stages_can_freeze_all_but_its_classifiers() -> None:
    model = timm.create_model("pit_ti_distilled_224", num_classes=7)
    with pytest.raises(ConfigError, match="set `freeze` to head"):
        freeze(model, 1, "pit_ti_distilled_224")
    freeze(model, "head", "pit_ti_distilled_224")
    assert trained(model) == {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}


def test_only_the_batch_norm_of_frozen_parts_keeps_its_statistics() -> None:
    model = timm.create_model("test_resnet", num_classes=7)
    freeze(model, 2, "test_resnet")
    keep_statistics(model.train())
    modes = {
        name: module.training for name, module in model.named_modules() if isinstance(module, torch.nn.BatchNorm2d)
    }
    assert modes
    assert all(mode == name.startswith(("layer3", "layer4")) for name, mode in modes.items())
    assert model.layer1.training, "other modules train, such as dropout"


def test_frozen_stages_get_no_ssia_heads(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ssia_zoo")
    model = timm.create_model("test_resnet", num_classes=7)
    freeze(model, 2, "test_resnet")
    task = SSIATask(model, input_size=(3, 32, 32))
    assert len(task.trainable_module.indices) == 2
    assert "2 of 4 stages are frozen and get no training-only heads" in caplog.text
    task(torch.rand(2, 3, 32, 32), torch.tensor([0, 1]))["loss"].backward()
    heads = task.trainable_module.projection.parameters()
    assert all(parameter.grad is not None for parameter in heads)
    freeze(model, 3, "test_resnet")
    with pytest.raises(ConfigError, match="3 of the 4 stages of ResNet are frozen"):
        SSIATask(model, input_size=(3, 32, 32))


@pytest.mark.covers("freeze")
@pytest.mark.parametrize(("depth", "method"), [(2, "ssia"), ("head", "vanilla")])
def test_a_run_leaves_frozen_tensors_and_statistics_as_they_were(
    base: Path, tmp_path: Path, depth: object, method: str
) -> None:
    settings = {"model": f"local-dir:{base}", "pretrained": True, "freeze": depth, "method": method, "ema": 0.5}
    small_run(tmp_path / "run", **settings, accumulation_steps=2)
    before, after = load_file(base / "model.safetensors"), weights(tmp_path / "run")
    moving = ("layer3", "layer4") if depth == 2 else ()
    changed = {name for name in after if name not in CLASSIFIER and not torch.equal(after[name], before[name])}
    assert changed == {name for name in after if name.startswith(moving)}
    vanilla = timm.create_model("test_resnet", num_classes=10).state_dict()
    assert {k: (v.shape, v.dtype) for k, v in after.items()} == {k: (v.shape, v.dtype) for k, v in vanilla.items()}
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step_00000006")
    small_run(shutil.copytree(tmp_path / "run", tmp_path / "again"), **settings, accumulation_steps=2, resume="auto")
    assert same_weights(tmp_path / "run", tmp_path / "again")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"freeze": 1}, "`freeze` requires `pretrained`"),
        ({"lora": 2}, "`lora` requires `pretrained`"),
        ({"probe": True}, "`probe` requires `pretrained`"),
        ({"pretrained": True, "freeze": 1, "lora": 2}, "`freeze` and `lora` exclude each other"),
        ({"pretrained": True, "probe": True, "lora": 2}, "`lora` and `probe` exclude each other"),
        ({"pretrained": True, "freeze": "head"}, "set `method` to vanilla"),
        ({"pretrained": True, "freeze": "head", "method": "vanilla", "head_lr": 0.1}, "set `lr` in place of `head_lr`"),
        ({"probe_flip": True}, "`probe_flip` requires `probe`"),
        ({"pretrained": True, "probe": True, "method": "sad", "epochs": 30}, "`method` sad has no effect"),
        ({"pretrained": True, "probe": True, "epochs": 30, "mixup": 0.2}, "does not use `mixup`; leave it out"),
        ({"eval_only": True, "batch_size": "auto"}, "`batch_size` auto tries training steps"),
    ],
)
def test_settings_that_contradict_each_other_get_one_line(
    tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_config(flags(output_dir=tmp_path, **settings))
    assert "\n" not in str(caught.value)
