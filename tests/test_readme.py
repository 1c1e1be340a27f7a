"""Every command of the README runs, offline, and its table says what hub_configs/ says."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import PIL.Image
import pytest
import timm
import torch

import ssia_zoo
from ssia_zoo.models.comparison import compare
from tests.helpers.documents import ROOT, bash, blocks, python, unmarked_blocks
from tests.helpers.hub_server import HubServer

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = blocks(README)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user of a clone sees, in a folder where commands may write."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("train_hf.py", "hub_configs"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def test_every_block_of_commands_is_tested() -> None:
    assert [block.split()[:3] for block in unmarked_blocks(README)] == [
        ["pip", "install", '".[plots]"']
    ]  # of which test_packaging.py and tests/cli/test_demo.py are


def test_an_image_is_classified(tmp_path: Path) -> None:
    PIL.Image.linear_gradient("L").save(tmp_path / "photo.jpg")
    printed = python(BLOCKS["create"], tmp_path).splitlines()
    command = re.search(r"`(ssia-zoo predict [^`]*)`", README)
    assert command is not None
    of_command = [line.split() for line in bash(command[1], tmp_path).splitlines()[1:4]]
    assert [line.split()[1] for line in printed] == [name for _, name in of_command]
    names = ssia_zoo.weights()["tf_efficientnet_lite0_ssia.grocery_r224"].label_names
    assert {line.split()[1] for line in printed} < set(names)


def test_a_loop_of_ones_own_trains_a_plain_model(tmp_path: Path) -> None:
    python(BLOCKS["loop"], tmp_path)
    state = torch.load(tmp_path / "resnet18.pt", weights_only=True)
    timm.create_model("resnet18", num_classes=10).load_state_dict(state)


def test_the_loss_alone_gives_gradients(tmp_path: Path) -> None:
    printed = python(BLOCKS["loss"] + "\nprint(*(f.grad is not None for f in features), logits.grad.shape)", tmp_path)
    assert "True False torch.Size([8, 10])" in printed  # the highest stage supervises and is not supervised


def test_fine_tune_then_publish_then_load(clone: Path, hub: HubServer) -> None:
    bash(BLOCKS["fine-tune"], clone, HF_HUB_OFFLINE="1")
    assert (clone / "runs" / "mine" / "model.safetensors").exists()
    publish = BLOCKS["publish"].replace("your-name", "alice")
    assert "alice/my-model" in bash(publish, clone, HF_TOKEN="hf_good", HF_HUB_OFFLINE="0")
    load = re.search(r"`(timm\.create_model\(\"hf-hub:.*?\))`", README)
    assert load is not None
    script = f'import sys, timm; m = {load[1].replace("your-name", "alice")}; assert "ssia_zoo" not in sys.modules'
    bash(f"python -c '{script}; print(m.num_classes)'", clone, PYTHONPATH="", HF_HUB_OFFLINE="0")


def test_a_published_weight_is_verified_and_exported_and_its_training_starts(clone: Path) -> None:
    verify, repeat, export = BLOCKS["weights"].strip().splitlines()
    assert "nothing failed" in bash(verify, clone)
    bash(repeat + " --max-steps 2", clone)
    bash(export, clone)
    assert (clone / "m.pt2").exists()


@pytest.mark.slow
def test_repeating_the_published_training_gives_its_top1(clone: Path) -> None:
    repeat = BLOCKS["weights"].strip().splitlines()[1].replace("runs/again", "runs/whole")
    bash(repeat, clone)
    weight = ssia_zoo.weights()["mobilenetv3_small_050_ssia.digits_r32"]
    from ssia_zoo.data import DataConfig
    from ssia_zoo.evaluation.validate import validate

    model = timm.create_model(f"local-dir:{clone / 'runs' / 'whole'}", pretrained=True)
    top1 = validate(model, DataConfig(dataset="digits", workers=0))["top1"]
    assert top1 == pytest.approx(weight.metrics.top1, abs=2.0)  # another CPU rounds otherwise


def test_the_table_of_weights_is_that_of_hub_configs() -> None:
    rows = []
    for name, weight in sorted(ssia_zoo.weights().items()):
        metrics, form = weight.metrics, "SSIA + DSN" if weight.training["ssia"].get("labels") else "label-free SSIA"
        seeds = [" / ".join(f"{getattr(run, m):.2f}" for run in metrics.runs) for m in ("ssia", "vanilla")]
        paired = compare(metrics.runs)
        interval = "{:+.2f} to {:+.2f}".format(*paired.interval) if paired.interval else "one seed"
        difference = f"{paired.difference:+.2f} ({interval})"
        rows.append(f"| `{name}` | {form} | {metrics.top1:.2f} | {seeds[0]} | {seeds[1]} | {difference} |")
    assert rows
    for row in rows:
        assert row in README


def test_links_lead_somewhere() -> None:
    folders = (ROOT, ROOT / "docs", ROOT / "benchmarks", ROOT / "export", ROOT / ".github")
    documents = [path for folder in folders for path in folder.glob("*.md")]
    for document in documents:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_every_name_of_the_api_page_exists() -> None:
    names = re.findall(r"`(ssia_zoo[\w.]*)`", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"))
    assert names
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert callable(getattr(importlib.import_module(module), attribute)), name
