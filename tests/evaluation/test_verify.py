"""Verification: a valid weight passes every check, and each kind of damage fails the check for it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

import ssia_zoo
from ssia_zoo import hub as zoo_hub
from ssia_zoo.data import DataConfig
from ssia_zoo.errors import ConfigError, DataError, HubError
from ssia_zoo.evaluation.validate import validate
from ssia_zoo.evaluation.verify import CHECKS, VerificationReport, verify
from ssia_zoo.models import registry
from ssia_zoo.models.loading import load_model
from ssia_zoo.models.weight import PublishedWeight
from tests.helpers.hub_server import HubServer
from tests.helpers.publishable_folder import edit_config, edit_weights, make_folder
from tests.helpers.published_weights import weight_entry
from tests.helpers.toy_weight import CLASSES, write_toy_weight

ARCH = "test_resnet3"  # an architecture of these tests' own, so that no other test meets its weight
NAME = f"{ARCH}_ssia"


def statuses(report: VerificationReport) -> dict[str, str]:
    return {check.name: check.status for check in report.checks}


def detail(report: VerificationReport, name: str) -> str:
    return next(check.detail for check in report.checks if check.name == name)


@pytest.fixture
def weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PublishedWeight:
    """A published weight whose files a test may damage."""
    entrypoints = timm.models._registry._model_entrypoints
    monkeypatch.setitem(entrypoints, ARCH, timm.model_entrypoint("test_resnet"))
    cfg = timm.models.get_pretrained_cfg("test_resnet")
    monkeypatch.setitem(timm.models._registry._model_pretrained_cfgs, ARCH, cfg)
    folder = tmp_path / "hub_configs"
    config = write_toy_weight(folder, ARCH)
    monkeypatch.setattr(registry, "resource_dir", lambda name: folder)
    monkeypatch.setattr(registry, "_weights", {})
    monkeypatch.delitem(entrypoints, NAME, raising=False)
    registry.register_published()
    return config


@pytest.fixture
def toys(tmp_path: Path) -> DataConfig:
    """A data set of 10 images, two a class."""
    torch.manual_seed(0)
    for split in ("train", "test"):
        for label in CLASSES:
            for index in range(2):
                path = tmp_path / "toys" / split / label / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8).numpy()).save(path)
    return DataConfig(dataset=str(tmp_path / "toys"), workers=0, batch_size=5)


# --- Valid weights ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [NAME, f"{NAME}.toys_r64"])
def test_a_published_weight_passes_every_check(weight: PublishedWeight, name: str) -> None:
    report = verify(name)
    assert statuses(report) == {check: "passed" for check in CHECKS} | {"top1": "skipped"}
    assert report.ok
    assert str(weight.sha256) in detail(report, "sha256")
    parameters = sum(p.numel() for p in timm.create_model("test_resnet", num_classes=len(CLASSES)).parameters())
    assert f"{parameters:,}" in detail(report, "parameters")


@pytest.mark.parametrize(("arch", "args"), [("test_resnet", {}), ("test_vit", {"img_size": 64}), ("test_convnext", {})])
def test_a_sound_folder_passes(tmp_path: Path, arch: str, args: dict[str, object]) -> None:
    report = verify(str(make_folder(tmp_path / "run", arch, **args)))
    assert report.ok
    assert statuses(report) == {check: "passed" for check in CHECKS} | {"top1": "skipped", "sha256": "skipped"}


def test_a_repository_passes_and_is_pinned(hub: HubServer, folder: Path) -> None:
    zoo_hub.publish(folder, "org/model", token="hf_good")
    report = verify("hf-hub:org/model")
    assert report.ok
    assert zoo_hub.file_sha256(folder / "model.safetensors") in detail(report, "sha256")


def test_a_folder_with_a_published_file_is_recognised(weight: PublishedWeight, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "copy")
    edit_config(folder, lambda config: config.update(num_classes=len(CLASSES)))
    published = registry.resource_dir("hub_configs") / str(weight.file)
    (folder / "model.safetensors").write_bytes(published.read_bytes())
    report = verify(str(folder))
    assert statuses(report)["sha256"] == "passed"
    assert weight.name in detail(report, "sha256")


def test_a_report_is_printed_as_text_and_converted_to_plain_values(folder: Path) -> None:
    report = verify(str(folder))
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["ok"] is True
    assert plain["target"] == str(folder)
    assert [check["name"] for check in plain["checks"]] == list(CHECKS)
    lines = str(report).splitlines()
    assert len(lines) == len(CHECKS) + 2
    assert lines[-1] == "nothing failed"
    edit_config(folder, lambda config: config.update(num_classes=8))
    assert str(verify(str(folder))).splitlines()[-1] == "FAILED: loads"


def test_verifying_keeps_the_random_state(folder: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    verify(str(folder))
    assert torch.equal(torch.rand(1), expected)


# --- Invalid weights --------------------------------------------------------------------------------------------------


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_one_changed_bit_fails_the_hash(weight: PublishedWeight) -> None:
    assert verify(NAME).ok
    flip_a_bit(registry.resource_dir("hub_configs") / str(weight.file))
    report = verify(NAME)
    assert not report.ok
    assert statuses(report) == {check: "skipped" for check in CHECKS} | {"sha256": "failed"}


def test_a_recorded_hash_is_not_trusted(weight: PublishedWeight, monkeypatch: pytest.MonkeyPatch) -> None:
    verify(NAME)
    flip_a_bit(registry.resource_dir("hub_configs") / str(weight.file))
    monkeypatch.setattr("ssia_zoo.hub.hashes._is_recorded", lambda state: True)
    report = verify(NAME)
    assert statuses(report)["sha256"] == "failed"


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda f: edit_weights(f, lambda t: t.update(head=torch.zeros(2))), "does not have: head"),
        (lambda f: edit_weights(f, lambda t: t["fc.bias"].fill_(float("nan"))), "fc.bias has NaN"),
        (lambda f: edit_config(f, lambda c: c.update(architecture="test_vit")), "does not have"),
        (lambda f: edit_config(f, lambda c: c.update(num_classes=9)), "fc.weight has shape (7, 96)"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 100), "not a readable safetensors file"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "only as pytorch_model.bin"),
    ],
)
def test_a_damaged_folder_fails_to_load_and_nothing_else_is_claimed(
    folder: Path, damage: Callable[[Path], object], expected: str
) -> None:
    damage(folder)
    report = verify(str(folder))
    assert not report.ok
    assert statuses(report) == {check: "skipped" for check in CHECKS} | {"loads": "failed"}
    assert expected in detail(report, "loads")


def test_the_failed_check_does_not_depend_on_words_in_the_message(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"x" * 100)
    report = verify(str(folder.rename(tmp_path / "sha256")))
    assert failures(report) == {"loads"}
    with pytest.raises(DataError, match="classes"):
        verify(str(make_folder(tmp_path / "valid")), data=DataConfig(dataset="./no/such/classes", workers=0))


def test_a_repository_whose_pinned_commit_holds_another_file_fails_the_hash(
    hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo_hub.publish(folder, "org/model", token="hf_good")
    commit = hub.repos["org/model"].resolve("main").oid
    entry = weight_entry(repo_id="org/model", revision=commit)
    monkeypatch.setattr(registry, "_weights", {entry.name: entry})
    assert statuses(verify("org/model"))["sha256"] == "failed"


class Extra(torch.nn.Module):
    """An operation without weights."""

    def __init__(self, step: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.step = step

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.step(x)


def spoil_model(monkeypatch: pytest.MonkeyPatch, change: Callable[[torch.nn.Module], object]) -> None:
    """Make the registered name create a modified model."""
    entrypoints = timm.models._registry._model_entrypoints
    original = entrypoints[NAME]

    def spoilt(*args: object, **kwargs: object) -> torch.nn.Module:
        model = original(*args, **kwargs)
        change(model)
        return model

    monkeypatch.setitem(entrypoints, NAME, spoilt)


def failures(report: VerificationReport) -> set[str]:
    return {name for name, status in statuses(report).items() if status == "failed"}


def append(step: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.nn.Module], object]:
    """A change that adds an operation after the pooling."""
    return lambda model: setattr(model, "global_pool", torch.nn.Sequential(model.global_pool, Extra(step)))


def test_another_operation_fails_the_graph_alone(weight: PublishedWeight, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil_model(monkeypatch, append(torch.relu))
    assert failures(verify(NAME)) == {"graph"}


def test_another_constant_fails_the_graph_alone(weight: PublishedWeight, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil_model(monkeypatch, lambda model: setattr(model.layer1[0].bn1, "eps", 1e-3))
    report = verify(NAME)
    assert failures(report) == {"graph"}
    assert "0.001" in detail(report, "graph")


def test_more_computation_fails_flops_and_graph(weight: PublishedWeight, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil_model(monkeypatch, append(lambda x: x + 0 * (x @ x.T).sum()))
    assert failures(verify(NAME)) == {"flops", "graph"}


def test_a_head_left_in_the_model_fails_names_and_parameters(
    weight: PublishedWeight, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_model(monkeypatch, lambda model: model.register_module("predictor", torch.nn.Linear(2, 2)))
    report = verify(NAME)
    assert {"state_dict", "parameters"} <= failures(report)
    assert "predictor.bias" in detail(report, "state_dict")


def test_another_precision_fails_the_dtypes(weight: PublishedWeight, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil_model(monkeypatch, lambda model: model.half())
    report = verify(NAME)
    assert "state_dict" in failures(report)
    assert "float16" in detail(report, "state_dict")


@pytest.mark.parametrize(("name", "error"), [("tset_resnet", ConfigError), ("./nowhere", ConfigError)])
def test_a_missing_model_raises_an_error(name: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        verify(name)


def test_an_unreachable_hub_raises_an_error() -> None:
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        verify("hf-hub:org/absent")


# --- The stated accuracy ----------------------------------------------------------------------------------------------


def state_top1(folder: Path, top1: object, images: object = 10) -> None:
    edit_config(folder, lambda c: c.update(ssia={"metrics": {"top1": top1}, "evaluated_images": images}))


@pytest.fixture
def measured(tmp_path: Path, toys: DataConfig) -> tuple[Path, float]:
    """A folder with five classes, and its top-1 on the toys."""
    folder = make_folder(tmp_path / "five")
    edit_config(folder, lambda config: config.update(num_classes=5))
    edit_weights(folder, lambda t: t.update({k: t[k][:5].clone() for k in ("fc.weight", "fc.bias")}))
    return folder, validate(load_model(str(folder)), toys)["top1"]


@pytest.mark.parametrize(("difference", "status"), [(0.0, "passed"), (9.9, "passed"), (10.1, "failed")])
def test_a_stated_top1_may_differ_by_one_image(
    measured: tuple[Path, float], toys: DataConfig, difference: float, status: str
) -> None:
    folder, top1 = measured
    state_top1(folder, top1 + difference)
    report = verify(str(folder), data=toys)
    assert statuses(report)["top1"] == status
    assert "allowed difference: 10.00 points" in detail(report, "top1")
    assert report.ok == (status == "passed")


def test_a_top1_of_other_images_does_not_pass(measured: tuple[Path, float], toys: DataConfig) -> None:
    folder, top1 = measured
    state_top1(folder, top1, images=11)
    report = verify(str(folder), data=toys)
    assert statuses(report)["top1"] == "failed"
    assert f"stated {top1:.2f} % of 11 images" in detail(report, "top1")


def test_the_split_is_that_of_the_training_unless_it_is_given(measured: tuple[Path, float], toys: DataConfig) -> None:
    folder, _ = measured
    shutil.rmtree(Path(toys.dataset) / "train" / CLASSES[0])
    claim = {"metrics": {"top1": 50.0}, "training": {"train_split": "test", "eval_split": "train"}}
    edit_config(folder, lambda config: config.update(ssia=claim))
    assert "of 8 images, stated" in detail(verify(str(folder), data=toys), "top1")
    given = verify(str(folder), data=replace(toys, eval_split="test"))
    assert "of 10 images, stated" in detail(given, "top1")


@pytest.mark.parametrize("stated", [None, "90", float("nan")])
def test_without_a_stated_top1_the_measured_one_is_reported(
    measured: tuple[Path, float], toys: DataConfig, stated: object
) -> None:
    folder, top1 = measured
    state_top1(folder, stated)
    report = verify(str(folder), data=toys)
    assert statuses(report)["top1"] == "skipped"
    assert f"measured {top1:.2f} % of 10 images" in detail(report, "top1")


def test_data_of_other_classes_fail_the_top1(folder: Path, toys: DataConfig) -> None:
    report = verify(str(folder), data=toys)
    assert failures(report) == {"top1"}
    assert "5 classes and the model 7" in detail(report, "top1")


def test_outputs_in_another_order_give_the_same_top1_by_their_names(
    weight: PublishedWeight, toys: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, label in enumerate(CLASSES):  # 2 to 6 images per class: confusing two classes changes the top-1
        images = sorted((Path(toys.dataset) / "test" / label).iterdir())
        for copy in range(number):
            shutil.copyfile(images[0], images[0].with_name(f"copy{copy}.png"))
    expected = detail(verify(NAME, data=toys), "top1")
    entrypoints = timm.models._registry._model_entrypoints
    original = entrypoints[NAME]

    def rolled(names: tuple[str, ...]) -> Callable[..., torch.nn.Module]:
        def create(*args: object, **kwargs: object) -> torch.nn.Module:
            model = original(*args, **kwargs)
            with torch.no_grad():
                for parameter in model.fc.parameters():
                    parameter.copy_(parameter.roll(1, 0))
            model.pretrained_cfg["label_names"] = names
            return model

        return create

    monkeypatch.setitem(entrypoints, NAME, rolled(CLASSES[-1:] + CLASSES[:-1]))
    assert detail(verify(NAME, data=toys), "top1") == expected
    monkeypatch.setitem(entrypoints, NAME, rolled(CLASSES))
    assert detail(verify(NAME, data=toys), "top1") != expected


def test_unreadable_data_raise_an_error(folder: Path) -> None:
    with pytest.raises(DataError):
        verify(str(folder), data=DataConfig(dataset="./nowhere", workers=0))


@pytest.mark.parametrize("name", sorted(ssia_zoo.weights()))
def test_a_shipped_weight_passes_verification(name: str) -> None:
    data = DataConfig(dataset="digits", workers=0) if ".digits_" in name else None  # the others are downloads
    expected = {check: "passed" for check in CHECKS if check != "top1"}
    assert statuses(verify(name, data=data)) == expected | {"top1": "passed" if data else "skipped"}
