"""LoRA adapters: which layers get one, that merging them gives the vanilla model, and that runs save that."""

from __future__ import annotations

import importlib.util
import logging
import shutil
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from ssia_zoo.data import DataConfig
from ssia_zoo.errors import ConfigError
from ssia_zoo.evaluation.validate import validate
from ssia_zoo.training.arguments import parse_config
from ssia_zoo.training.lora import add_adapters, merged
from tests.helpers.publishable_folder import make_folder
from tests.helpers.runs import flags, same_weights, small_run, weights

SIZE = (3, 64, 64)
RANK = 2


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("base") / "vit", "test_vit")


def shapes(state: dict[str, torch.Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in state.items()}


@pytest.mark.parametrize("arch", ["test_vit", "test_resnet", "test_efficientnet", "test_convnext", "test_beit"])
def test_merging_gives_the_vanilla_model_with_the_same_logits(arch: str) -> None:
    torch.manual_seed(0)
    beit = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 64, "patch_size": 16}
    name, arguments = ("beit_base_patch16_224", beit) if arch == "test_beit" else (arch, {})
    model = timm.create_model(name, num_classes=7, **arguments)
    vanilla = shapes(model.state_dict())
    add_adapters(model, RANK, SIZE, name)
    model.eval()
    images = torch.rand(2, *SIZE)
    before = model(images)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if ".lora_B." in parameter_name:  # zero so far
                torch.nn.init.normal_(parameter, std=0.1)
    logits = model(images)
    size = float(logits.detach().abs().max())
    assert (logits - before).abs().max() > 1e-3 * size, "the adapters have an effect"
    result = merged(model)
    assert shapes(result.state_dict()) == vanilla
    assert type(result) is type(model)
    assert not hasattr(result, "peft_config")
    torch.testing.assert_close(result(images), logits, rtol=1e-4, atol=1e-4 * size)
    torch.testing.assert_close(model(images), logits, rtol=0, atol=0)  # the model in training is as before


def test_linear_layers_get_adapters_and_only_they_and_the_classifier_train(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ssia_zoo")
    model = timm.create_model("test_vit", num_classes=7)
    add_adapters(model, RANK, SIZE, "test_vit")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    layers = {name.split(".lora_")[0] for name in trained if ".lora_" in name}
    kinds = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    assert layers == {f"blocks.{i}.{kind}" for i in range(6) for kind in kinds}
    assert {name for name in trained if ".lora_" not in name} == {"head.weight", "head.bias"}
    assert "LoRA of rank 2 on 6 blocks.*.attn.qkv" in caplog.text
    assert "without adapter, so frozen: 1 patch_embed.proj" in caplog.text


def test_a_layer_whose_weights_are_used_without_calling_it_gets_no_adapter() -> None:
    model = timm.create_model("beit_base_patch16_224", embed_dim=32, depth=1, num_heads=2, img_size=64)
    add_adapters(model, RANK, SIZE, "beit")
    model(torch.rand(2, *SIZE)).sum().backward()
    assert "blocks.0.attn.qkv.weight" in model.state_dict()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.covers("lora")
def test_a_run_saves_the_merged_model_and_resumes(base: Path, tmp_path: Path) -> None:
    settings = {"model": f"local-dir:{base}", "pretrained": True, "lora": RANK, "ema": 0.5, "lr": 0.01}
    result = small_run(tmp_path / "run", **settings)
    before, after = load_file(base / "model.safetensors"), weights(tmp_path / "run")
    assert shapes(after) == shapes(timm.create_model("test_vit", num_classes=10, img_size=32).state_dict())
    change = after["blocks.0.attn.qkv.weight"] - before["blocks.0.attn.qkv.weight"]
    assert 0 < torch.linalg.matrix_rank(change, rtol=1e-3) <= RANK
    frozen = ("patch_embed.proj.weight", "blocks.0.norm1.weight", "blocks.0.attn.qkv.bias")
    assert all(torch.equal(after[name], before[name]) for name in frozen)
    assert f"LoRA adapters of rank {RANK}" in (result.folder / "README.md").read_text()

    data = DataConfig(dataset="digits", max_eval_images=40, image_size=32, workers=0)
    loaded = timm.create_model(f"local-dir:{result.folder}", pretrained=True)
    assert validate(loaded, data)["loss"] == pytest.approx(result.metrics["loss"], rel=1e-4)

    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step_00000012")
    small_run(shutil.copytree(tmp_path / "run", tmp_path / "again"), **settings, resume="auto")
    assert same_weights(tmp_path / "run", tmp_path / "again")


def test_without_peft_one_line_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "peft" else find_spec(name))
    with pytest.raises(ConfigError, match=r"`lora` needs peft; run: pip install 'ssia-zoo\[lora\]'"):
        parse_config(flags(output_dir=tmp_path, pretrained=True, lora=2))
