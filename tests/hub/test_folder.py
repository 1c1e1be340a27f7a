"""Only a complete and valid vanilla model can be published."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ssia_zoo.errors import WeightError
from ssia_zoo.hub import PUBLISHED_FILES, check_folder
from ssia_zoo.hub.folder import EVAL_RESULTS, addressed_card, check_extra
from tests.helpers.publishable_folder import edit_config, edit_weights, make_folder


@pytest.mark.parametrize(("arch", "args"), [("test_resnet", {}), ("test_vit", {"img_size": 64}), ("test_vit2", {})])
def test_a_valid_folder_passes(tmp_path: Path, arch: str, args: dict[str, object]) -> None:
    check_folder(make_folder(tmp_path / "run", arch, **args))


def leak_head(tensors: dict[str, torch.Tensor]) -> None:
    tensors["predictor.weight"] = torch.zeros(2, 2)


def poison(tensors: dict[str, torch.Tensor]) -> None:
    tensors["fc.weight"][0, 0] = float("nan")


def halve(tensors: dict[str, torch.Tensor]) -> None:
    tensors["fc.weight"] = tensors["fc.weight"].half()


def cut(tensors: dict[str, torch.Tensor]) -> None:
    tensors["fc.weight"] = tensors["fc.weight"][:5].clone()


def forget(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["fc.bias"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (leak_head, "does not have: predictor.weight"),
        (poison, "fc.weight has NaN"),
        (halve, "fc.weight is torch.float16"),
        (cut, r"fc.weight has shape \(5, "),
        (forget, "lacks tensors of its architecture: fc.bias"),
    ],
)
def test_invalid_weights_are_refused(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], object], expected: str
) -> None:
    edit_weights(folder, change)
    with pytest.raises(WeightError, match=expected) as refused:
        check_folder(folder)
    assert "model.safetensors" in str(refused.value)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda config: config.update(architecture="resnet50_ssia"), "write 'resnet50'"),
        (lambda config: config.update(architecture="resnet5000"), "'resnet5000', which timm"),
        (lambda config: config.pop("architecture"), "no valid 'architecture'"),
        (lambda config: config.pop("num_classes"), "no valid 'num_classes'"),
        (lambda config: config.pop("pretrained_cfg"), "no valid 'pretrained_cfg'"),
        (lambda config: config.update(num_classes=9), "fc.weight has shape"),
        (lambda config: config["model_args"].update(no_such_argument=1), "cannot build"),
        (lambda config: config["model_args"].update(num_classes=7), "remove it from model_args"),
    ],
)
def test_an_invalid_configuration_is_refused(folder: Path, change: Callable[[dict], object], expected: str) -> None:
    edit_config(folder, change)
    with pytest.raises(WeightError, match=expected) as refused:
        check_folder(folder)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", PUBLISHED_FILES)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(WeightError, match=f"{name} is missing"):
        check_folder(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_damaged_file_is_named(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightError, match=f"{name} is not"):
        check_folder(folder)


@pytest.mark.parametrize("content", ["", "[", "- value: 1", "- dataset: {id: org/data}\n  value: 1", "value: 1", "- 7"])
def test_results_that_the_client_cannot_read_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / EVAL_RESULTS
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(WeightError, match="holds no evaluation results in the Hub's format") as refused:
        check_extra(tmp_path, [EVAL_RESULTS])
    assert "\n" not in str(refused.value)
    path.write_text("- dataset: {id: org/data, task_id: default}\n  value: 71.0\n")
    check_extra(tmp_path, [EVAL_RESULTS])


def test_only_known_files_are_published_in_addition(tmp_path: Path) -> None:
    with pytest.raises(WeightError, match=r"key\.pem cannot be published"):
        check_extra(tmp_path, ["key.pem"])


def test_a_card_names_the_repository_it_is_published_to() -> None:
    card = 'create_model("hf-hub:ORG/NAME")  create_model("local-dir:FOLDER")  pipeline("x", model="FOLDER")  FOLDER'
    expected = 'create_model("hf-hub:me/it")  create_model("hf-hub:me/it")  pipeline("x", model="me/it")  FOLDER'
    assert addressed_card(card, "me/it") == addressed_card(expected, "me/it") == expected
