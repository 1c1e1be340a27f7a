"""Entry points: published weights under `_ssia` names; everything else as in timm."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import ssia_zoo
import ssia_zoo.hub
from ssia_zoo.data import DataConfig
from ssia_zoo.errors import ConfigError, WeightError
from ssia_zoo.evaluation.validate import validate
from ssia_zoo.models import registry
from ssia_zoo.resources import resource_dir
from tests.helpers.hub_server import HubServer
from tests.helpers.publishable_folder import make_folder
from tests.helpers.published_weights import weight_entry
from tests.helpers.toy_weight import write_toy_weight

ARCH = "mobilenetv3_small_050"
NAME = f"{ARCH}_ssia"
FULL = f"{NAME}.digits_r32"


def published_tensors() -> dict[str, torch.Tensor]:
    return load_file(resource_dir("hub_configs") / f"{FULL}.safetensors")


@pytest.mark.parametrize("name", [NAME, FULL])
def test_pretrained_loads_the_tensors_of_the_published_file(name: str) -> None:
    model = timm.create_model(name, pretrained=True)
    loaded = model.state_dict()
    published = published_tensors()
    assert loaded.keys() == published.keys()
    assert all(torch.equal(loaded[key], tensor.to(loaded[key].dtype)) for key, tensor in published.items())


def test_pretrained_cfg_is_not_that_of_vanilla_weights() -> None:
    cfg = timm.create_model(NAME, pretrained=True).pretrained_cfg
    vanilla = timm.create_model(ARCH).pretrained_cfg
    weight = ssia_zoo.weights()[FULL]
    assert cfg["tag"] == "digits_r32"
    assert cfg["architecture"] == ARCH
    assert cfg["num_classes"] == 10
    assert cfg["input_size"] == (3, 32, 32)
    assert tuple(cfg["label_names"]) == weight.label_names
    assert cfg["license"] == weight.license
    for source in ("hf_hub_id", "url", "origin_url", "paper_ids"):
        assert not cfg.get(source), source
    assert vanilla["hf_hub_id"], "vanilla has a source, so the test above can fail"


def test_a_weights_preprocessing_is_that_of_its_description(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described = {"interpolation": "bilinear", "crop_pct": 0.9, "crop_mode": "squash", "mean": [0.1, 0.2, 0.3]}
    arch = "test_resnet4"  # an architecture that no other test uses
    monkeypatch.setitem(timm.models._registry._model_entrypoints, arch, timm.model_entrypoint("test_resnet"))
    vanilla = timm.models.get_pretrained_cfg("test_resnet")
    monkeypatch.setitem(timm.models._registry._model_pretrained_cfgs, arch, vanilla)
    write_toy_weight(tmp_path, arch, **described)
    monkeypatch.setattr(registry, "resource_dir", lambda name: tmp_path)
    registry.register_published()
    cfg = timm.create_model(f"{arch}_ssia", pretrained=True).pretrained_cfg
    assert {name: cfg[name] for name in described} == described | {"mean": (0.1, 0.2, 0.3)}


def test_the_model_is_the_vanilla_one_with_the_same_arguments() -> None:
    ours, vanilla = timm.create_model(NAME), timm.create_model(ARCH, num_classes=10)
    assert type(ours) is type(vanilla)
    assert {k: (v.shape, v.dtype) for k, v in ours.state_dict().items()} == {
        k: (v.shape, v.dtype) for k, v in vanilla.state_dict().items()
    }


def test_without_pretrained_the_weights_are_those_of_a_fresh_vanilla_model() -> None:
    torch.manual_seed(0)
    ours = timm.create_model(NAME, pretrained=False)
    torch.manual_seed(0)
    vanilla = timm.create_model(ARCH, pretrained=False, num_classes=10)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), vanilla.parameters(), strict=True))


def test_num_classes_replaces_the_classifier_and_keeps_the_rest() -> None:
    model = timm.create_model(NAME, pretrained=True, num_classes=3)
    published = published_tensors()
    assert model.classifier.weight.shape[0] == 3
    assert torch.equal(model.conv_stem.weight, published["conv_stem.weight"].float())


def test_in_chans_adapts_the_stem() -> None:
    model = timm.create_model(NAME, pretrained=True, in_chans=1)
    expected = published_tensors()["conv_stem.weight"].float().sum(1, keepdim=True)
    torch.testing.assert_close(model.conv_stem.weight.detach(), expected, rtol=0, atol=1e-3)  # timm sums in float16
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 10)


def test_features_only_returns_the_stages_of_the_published_weights() -> None:
    model = timm.create_model(NAME, pretrained=True, features_only=True)
    assert len(model(torch.randn(1, 3, 64, 64))) == 5
    assert torch.equal(model.conv_stem.weight, published_tensors()["conv_stem.weight"].float())


def test_list_models_shows_the_names_and_which_have_weights() -> None:
    assert NAME in timm.list_models("*_ssia")
    assert FULL in timm.list_models("*_ssia*", pretrained=True)
    assert timm.list_models(module="ssia_zoo")
    assert timm.is_model_pretrained(NAME)


def test_an_unknown_tag_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=f"'nowhere'.*{FULL}"):
        timm.create_model(f"{NAME}.nowhere", pretrained=True)


def test_the_callers_weights_file_is_used(tmp_path: Path) -> None:
    torch.manual_seed(1)
    other = timm.create_model(ARCH, num_classes=10)
    path = tmp_path / "own.safetensors"
    save_file(other.state_dict(), path)
    model = timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay={"file": str(path)})
    assert torch.equal(model.conv_stem.weight, other.conv_stem.weight)


@pytest.mark.parametrize("source", [{"hf_hub_id": "alice/none"}, {"url": "http://127.0.0.1:9/none.pth"}], ids=str)
def test_the_callers_source_replaces_the_published_file(
    source: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(OSError):  # noqa: PT011  # of huggingface_hub or urllib: neither exists
        timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=source)


def test_the_published_top1_can_be_recomputed() -> None:
    weight = ssia_zoo.weights()[FULL]
    result = validate(timm.create_model(FULL, pretrained=True), DataConfig(dataset="digits", workers=0))
    assert result["images"] == weight.metrics.images
    assert result["top1"] == pytest.approx(weight.metrics.top1, abs=0.3)  # one image: other CPUs round otherwise


@pytest.mark.parametrize("arch", ["test_vit", "regnetx_002", "test_byobnet", "test_convnext"])
def test_register_accepts_any_other_architecture(arch: str) -> None:
    name = ssia_zoo.register(arch)
    assert name == f"{arch}_ssia"
    torch.manual_seed(0)
    ours = timm.create_model(name, num_classes=5)
    torch.manual_seed(0)
    vanilla = timm.create_model(arch, num_classes=5)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), vanilla.parameters(), strict=True))
    assert getattr(ssia_zoo, name)(num_classes=5)


def test_register_twice_does_nothing(recwarn: pytest.WarningsRecorder) -> None:
    ssia_zoo.register("test_vit")
    entrypoint = timm.model_entrypoint("test_vit_ssia")
    ssia_zoo.register("test_vit")
    ssia_zoo.register(ARCH)
    assert timm.model_entrypoint("test_vit_ssia") is entrypoint
    assert FULL in timm.list_models("*_ssia*", pretrained=True)
    assert not [w for w in recwarn if "Overwriting" in str(w.message)]


def test_pretrained_without_a_published_weight_never_falls_back_to_vanilla() -> None:
    ssia_zoo.register("test_resnet")
    with pytest.raises(WeightError, match=r"test_resnet_ssia has no published weight.*pretrained=False"):
        timm.create_model("test_resnet_ssia", pretrained=True)


def test_register_suggests_architectures_for_an_unknown_one() -> None:
    with pytest.raises(ConfigError, match="convnext_tiny"):
        ssia_zoo.register("convnext_tiney")


@pytest.fixture
def damaged_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the shipped weights."""
    folder = tmp_path / "hub_configs"
    shutil.copytree(resource_dir("hub_configs"), folder)
    monkeypatch.setattr(registry, "resource_dir", lambda name: folder)
    return folder / f"{FULL}.safetensors"


def test_a_tampered_weight_is_refused(damaged_copy: Path) -> None:
    content = bytearray(damaged_copy.read_bytes())
    content[-1] ^= 1
    damaged_copy.write_bytes(content)
    with pytest.raises(WeightError, match="sha256"):
        timm.create_model(NAME, pretrained=True)


def test_a_missing_weight_is_named(damaged_copy: Path) -> None:
    damaged_copy.unlink()
    with pytest.raises(WeightError, match=f"{FULL}.*missing"):
        timm.create_model(NAME, pretrained=True)


def hub_entry(folder: Path, repo_id: str, revision: str, sha256: str) -> None:
    entry: dict[str, Any] = json.loads((resource_dir("hub_configs") / f"{FULL}.json").read_text())
    entry |= {"architecture": "test_resnet2", "tag": "hub_r64", "num_classes": 7, "label_names": list("abcdefg")}
    entry |= {"file": None, "sha256": None, "repo_id": repo_id, "revision": revision, "repo_sha256": sha256}
    entry["input_size"] = [3, 64, 64]
    folder.mkdir()
    (folder / "test_resnet2_ssia.hub_r64.json").write_text(json.dumps(entry))


def test_a_weight_with_a_repository_comes_from_the_hub_and_is_verified(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_folder(tmp_path / "run")
    url = ssia_zoo.hub.publish(run, "org/test", token="hf_good")
    revision = url.rsplit("/", 1)[-1]
    sha256 = ssia_zoo.hub.file_sha256(run / "model.safetensors")
    arch = "test_resnet2"  # an architecture that no other test uses
    monkeypatch.setitem(timm.models._registry._model_entrypoints, arch, timm.model_entrypoint("test_resnet"))
    cfg = timm.models.get_pretrained_cfg("test_resnet")
    monkeypatch.setitem(timm.models._registry._model_pretrained_cfgs, arch, cfg)

    hub_entry(tmp_path / "good", "org/test", revision, sha256)
    registry.register_published(tmp_path / "good")
    model = timm.create_model(f"{arch}_ssia", pretrained=True)
    published = load_file(run / "model.safetensors")
    assert all(torch.equal(tensor, published[key]) for key, tensor in model.state_dict().items())

    hub_entry(tmp_path / "swapped", "org/test", revision, "0" * 64)
    with pytest.warns(UserWarning, match="Overwriting"):
        registry.register_published(tmp_path / "swapped")
    with pytest.raises(WeightError, match="sha256"):
        timm.create_model(f"{arch}_ssia", pretrained=True)


def test_weights_are_found_by_name_with_or_without_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    default, other = weight_entry(tag="c10_r32"), weight_entry(tag="tin_r64", default=False)
    monkeypatch.setattr(registry, "_weights", {weight.name: weight for weight in (default, other)})
    assert registry.find_weight("test_resnet_ssia") == default
    assert registry.find_weight("test_resnet_ssia.tin_r64") == other
    with pytest.raises(ConfigError, match=r"'test_resnet_ssia.c10_r23'; did you mean test_resnet_ssia.c10_r32"):
        registry.find_weight("test_resnet_ssia.c10_r23")
    with pytest.raises(ConfigError, match=r"'qqqqqq'; expected one of test_resnet_ssia.c10_r32, test_resnet_ssia.tin"):
        registry.find_weight("qqqqqq")


def test_importing_writes_nothing_and_uses_no_network(tmp_path: Path) -> None:
    script = """
import sys
def audit(event, args):
    if event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        raise SystemExit(f"writes {args[0]}")
    if event.startswith("socket.connect") or event == "socket.getaddrinfo":
        raise SystemExit(f"network: {event} {args}")
import timm
sys.addaudithook(audit)
import ssia_zoo
print(sorted(m for m in ("ssia_zoo.hub", "ssia_zoo.data", "ssia_zoo.training", "datasets", "matplotlib",
              "pydantic", "tyro")
             if m in sys.modules))
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]", "importing brings in what only training or publishing needs"
    assert list(tmp_path.iterdir()) == []


def package_with(folder: Path, **descriptions: str) -> dict[str, str]:
    """Copy the package with other JSON files; return the environment that imports it."""
    shutil.copytree(Path(ssia_zoo.__file__).parent, folder / "ssia_zoo", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(resource_dir("hub_configs"), folder / "hub_configs", ignore=shutil.ignore_patterns("*.safetensors"))
    for name, text in descriptions.items():
        (folder / "hub_configs" / f"{name}.json").write_text(text)
    return {**os.environ, "PYTHONPATH": str(folder), "PYTHONWARNINGS": "default"}


def described(name: str = FULL, **changes: object) -> str:
    return json.dumps(json.loads((resource_dir("hub_configs") / f"{name}.json").read_text()) | changes)


def test_invalid_descriptions_are_skipped_with_a_warning_each(tmp_path: Path) -> None:
    environment = package_with(tmp_path)
    shipped = len(list((tmp_path / "hub_configs").glob("*.json")))
    invalid = {
        FULL: (described(crop_pct=7.0), "crop_pct"),
        "resnet18_ssia.tin_r64": ("{", "not valid JSON"),
        "resnet50_ssia.c10_r32": ("\udc80", "not valid JSON"),
        "nonesuch_ssia.c10_r32": (described(architecture="nonesuch", tag="c10_r32"), "no architecture 'nonesuch'"),
    }
    for name, (text, _) in invalid.items():
        (tmp_path / "hub_configs" / f"{name}.json").write_bytes(text.encode(errors="surrogateescape"))
    script = (
        "import warnings; warnings.simplefilter('ignore'); import timm; warnings.simplefilter('always')\n"
        "import ssia_zoo; print(len(ssia_zoo.weights()), ssia_zoo.__file__)\n"
    )
    commands = (["-c", script], ["-m", "ssia_zoo.cli", "list"])
    with ThreadPoolExecutor() as pool:  # at the same time: each takes seconds to import torch
        options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "check": False}
        started = [pool.submit(subprocess.run, [sys.executable, *words], **options) for words in commands]
    done, listed = (process.result() for process in started)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(shipped - 3), str(tmp_path / "ssia_zoo" / "__init__.py")]
    lines = [line for line in done.stderr.splitlines() if "UserWarning" in line]
    assert len(lines) == len(invalid)
    for name, (_, expected) in invalid.items():
        assert [line for line in lines if f"the weight {name} is skipped" in line and expected in line]
    assert listed.returncode == 1
    assert len(listed.stdout.splitlines()) > shipped - 3, "the others are listed"
    skipped = [line.split()[1] for line in listed.stderr.splitlines() if line.startswith("skipped ")]
    assert sorted(skipped) == sorted(f"{name}:" for name in invalid)


def test_of_several_defaults_none_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_weights", {})
    monkeypatch.setattr(registry, "_skipped", {})
    for tag in ("a_r64", "b_r64"):
        write_toy_weight(tmp_path, tag=tag)
    with pytest.warns(UserWarning, match=r"exactly one default tag.*test_resnet_ssia without a tag has no weight"):
        registry.register_published(tmp_path)
    assert set(registry.weights()) == {"test_resnet_ssia.a_r64", "test_resnet_ssia.b_r64"}
    with pytest.raises(WeightError, match="no published weight"):
        timm.create_model("test_resnet_ssia", pretrained=True)
