"""Loading by any name: what it finds, and what it refuses, on disk and from a Hub on loopback."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import HfApi, constants
from safetensors.torch import load_file

from ssia_zoo import hub as zoo_hub
from ssia_zoo.errors import ConfigError, HubError, WeightError
from ssia_zoo.models.loading import load_model
from tests.helpers.hub_server import HubServer
from tests.helpers.publishable_folder import edit_config, edit_weights
from tests.helpers.stored_models import REPO, assert_loaded, published, refusal, store


class Bomb:
    """Leaves a trace if it is ever unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.trace,))


def bomb(trace: Path) -> bytes:
    return pickle.dumps(Bomb(trace))


# --- Names ------------------------------------------------------------------------------------------------------------


def test_a_folder_loads_by_its_path_and_as_local_dir(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_loaded(load_model(f"local-dir:{folder}"), folder)
    assert_loaded(load_model(str(folder)), folder)
    monkeypatch.chdir(folder.parent)
    assert_loaded(load_model(folder.name), folder)
    assert_loaded(load_model(f"./{folder.name}"), folder)


def test_a_registered_name_wins_over_a_folder_of_that_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.rename(folder.parent / "test_vit")
    monkeypatch.chdir(folder.parent)
    assert "VisionTransformer" in type(load_model("test_vit", pretrained=False)).__name__
    assert_loaded(load_model("./test_vit"), folder.parent / "test_vit")


def test_timms_arguments_are_passed_on(folder: Path) -> None:
    model = load_model(str(folder), num_classes=3, in_chans=1, drop_rate=0.5)
    expected = load_file(folder / "model.safetensors")
    assert model.num_classes == 3
    assert model.drop_rate == 0.5
    assert torch.equal(model.layer1[0].conv1.weight, expected["layer1.0.conv1.weight"])
    assert model(torch.zeros(1, 1, 64, 64)).shape == (1, 3)


def test_without_pretrained_only_the_configuration_is_needed(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert load_model(str(folder), pretrained=False).num_classes == 7


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tset_resnet", "did you mean test_resnet"),
        ("mobilenetv3_smal_050_ssia", "mobilenetv3_small_050"),
        ("test_resnet.r160_in1kk", "did you mean test_resnet.r160_in1k"),
        ("", "expected a published weight, a timm name, a folder, or hf-hub:org/name"),
        ("no\nsuch\tmodel", "there is no model"),
        ("./nowhere", "there is no folder nowhere"),
        ("a/b/c", "there is no model 'a/b/c'"),
        ("local-dir:nowhere", "there is no folder nowhere"),
        ("local-dir:", "there is no model"),
        ("hf-hub:name", "expected org/name"),
        ("hf-hub:org/../../etc", "expected org/name"),
        ("other:org/name", "there is no model"),
    ],
)
def test_an_unknown_name_gets_a_hint(name: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in refusal(name, ConfigError)


def test_a_misspelled_folder_gets_a_suggestion(folder: Path) -> None:
    assert f"did you mean {folder.name}?" in refusal(str(folder.parent / "my rum"), ConfigError)


def test_other_sources_of_weights_are_refused(folder: Path) -> None:
    assert "checkpoint_path is not supported" in refusal(str(folder), ConfigError, checkpoint_path="x.pth")


# --- Folders ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pth", "checkpoint.pth.tar"])
def test_a_folder_of_pickles_is_refused_and_never_unpickled(folder: Path, name: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(bomb(trace))
    text = refusal(str(folder))
    assert f"only as {name}" in text
    assert "weights_only" in text
    assert not trace.exists()


def test_a_pickle_beside_safetensors_is_left_alone(folder: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    (folder / "pytorch_model.bin").write_bytes(bomb(trace))
    assert_loaded(load_model(str(folder)), folder)
    assert not trace.exists()


def test_a_pickle_under_a_safetensors_name_is_refused(folder: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    (folder / "model.safetensors").write_bytes(bomb(trace))
    assert "not a readable safetensors file" in refusal(str(folder))
    assert not trace.exists()


def test_half_precision_weights_load(folder: Path) -> None:
    edit_weights(folder, lambda t: t.update({k: v.half() for k, v in t.items() if v.is_floating_point()}))
    model = load_model(str(folder))
    assert model.fc.weight.dtype == torch.float32
    assert torch.equal(model.fc.weight, load_file(folder / "model.safetensors")["fc.weight"].float())


def swap_shapes(folder: Path) -> None:
    edit_weights(folder, lambda t: t.update({"conv1.0.weight": torch.zeros(1, 2, 3, 3)}))


def drop_trunk(folder: Path) -> None:
    edit_weights(folder, lambda t: t.pop("layer1.0.conv1.weight"))


def leak_head(folder: Path) -> None:
    edit_weights(folder, lambda t: t.update({"predictors.0.weight": torch.zeros(2)}))


def poison(folder: Path) -> None:
    edit_weights(folder, lambda t: t["fc.weight"][0, 0].fill_(float("inf")))


def truncate(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", (folder / "model.safetensors").stat().st_size - 1)


def empty(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def other_architecture(folder: Path) -> None:
    edit_config(folder, lambda config: config.update(architecture="test_vit"))


DAMAGE = [
    (swap_shapes, "conv1.0.weight has shape (1, 2, 3, 3)"),
    (drop_trunk, "lacks tensors of its architecture: layer1.0.conv1.weight"),
    (leak_head, "does not have: predictors.0.weight"),
    (poison, "fc.weight has NaN or infinite values"),
    (truncate, "model.safetensors is not a readable safetensors file"),
    (empty, "model.safetensors is not a readable safetensors file"),
    (other_architecture, "does not have"),
]


@pytest.mark.parametrize(("damage", "expected"), DAMAGE)
@pytest.mark.parametrize("num_classes", [None, 3])  # timm does not check tensors if the number of classes changes
def test_a_damaged_folder_is_refused(folder: Path, damage: object, expected: str, num_classes: int | None) -> None:
    damage(folder)  # type: ignore[operator]
    text = refusal(str(folder), num_classes=num_classes)
    assert expected in text
    assert str(folder) in text


@pytest.mark.parametrize("field", ["file", "url", "hf_hub_id", "hf_hub_filename"])
def test_a_configuration_cannot_name_other_weights(folder: Path, field: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    (tmp_path / "evil.bin").write_bytes(bomb(trace))
    edit_config(folder, lambda config: config["pretrained_cfg"].update({field: str(tmp_path / "evil.bin")}))
    edit_config(folder, lambda config: config["pretrained_cfg"].update(custom_load=True, source="hf-hub"))
    assert_loaded(load_model(str(folder)), folder)
    assert not trace.exists()
    with pytest.raises(WeightError, match=f"another source of weights .*{field}"):
        zoo_hub.check_folder(folder)


@pytest.mark.parametrize("argument", ["checkpoint_path", "pretrained_cfg_overlay", "features_only", "device"])
def test_a_configuration_cannot_choose_how_it_is_loaded(folder: Path, argument: str) -> None:
    edit_config(folder, lambda config: config["model_args"].update({argument: "x"}))
    assert "model_args" in refusal(str(folder))


@pytest.mark.parametrize("name", zoo_hub.PUBLISHED_FILES)
def test_a_link_out_of_the_folder_is_never_published(folder: Path, name: str, tmp_path: Path) -> None:
    (folder / name).rename(tmp_path / "secret")
    (folder / name).symlink_to(tmp_path / "secret")
    with pytest.raises(WeightError, match=f"{name} is a link to .*secret, outside the folder"):
        zoo_hub.check_folder(folder)


def test_a_link_within_the_folder_is_published(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "epoch_9.safetensors")
    (folder / "model.safetensors").symlink_to("epoch_9.safetensors")
    zoo_hub.check_folder(folder)


# --- The Hub ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [f"hf-hub:{REPO}", f"hf_hub:{REPO}", REPO, f"{REPO}@main"])
def test_only_the_two_files_of_a_repository_are_fetched(hub: HubServer, folder: Path, name: str) -> None:
    commit = store(hub, REPO, {**published(folder), "pytorch_model.bin": b"x", "other.safetensors": b"y"})
    assert_loaded(load_model(name), folder)
    (snapshot,) = Path(constants.HF_HUB_CACHE).glob("models--*/snapshots/*")
    assert snapshot.name == commit
    assert {path.name for path in snapshot.iterdir()} == {"config.json", "model.safetensors"}


def test_all_files_are_from_one_commit(hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = store(hub, REPO, published(folder))
    download = HfApi.hf_hub_download
    asked: list[str | None] = []

    def move_the_branch_meanwhile(api: object, repo_id: str, name: str, *, revision: str | None, **kw: object) -> str:
        asked.append(revision)
        path = download(api, repo_id, name, revision=revision, **kw)
        store(hub, REPO, {"config.json": b"{}", "model.safetensors": b"other"})
        return str(path)

    monkeypatch.setattr(HfApi, "hf_hub_download", move_the_branch_meanwhile)
    assert_loaded(load_model(REPO), folder)
    assert asked == [None, first]
    assert_loaded(load_model(f"{REPO}@{first}"), folder)


def test_a_repository_of_pickles_is_refused_and_none_is_fetched(hub: HubServer, folder: Path) -> None:
    store(hub, REPO, {"config.json": (folder / "config.json").read_bytes(), "pytorch_model.bin": b"x"})
    assert f"{REPO} offers its weights only as pytorch_model.bin" in refusal(REPO)
    assert not [path for _, path in hub.requests if path.endswith(".bin")]


def test_timms_own_names_load_from_safetensors_only(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = timm.create_model("test_resnet")
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    repo_id = "timm/test_resnet.r160_in1k"
    store(hub, repo_id, {"pytorch_model.bin": bomb(tmp_path / "trace")})
    assert "only as pytorch_model.bin" in refusal("test_resnet")
    from safetensors.torch import save

    store(hub, repo_id, {"pytorch_model.bin": bomb(tmp_path / "trace"), "model.safetensors": save(tensors)})
    loaded = load_model("test_resnet.r160_in1k", num_classes=4)
    assert torch.equal(loaded.conv1[0].weight, tensors["conv1.0.weight"])
    assert loaded.num_classes == 4
    assert not [path for method, path in hub.requests if method == "GET" and path.endswith(".bin")]
    assert not (tmp_path / "trace").exists()


def test_a_timm_weight_that_is_a_pickle_only_is_refused() -> None:
    assert "has no safetensors file" in refusal("legacy_seresnet18.in1k")


@pytest.mark.parametrize("revision", ["absent", "0" * 40])
def test_an_unknown_revision_is_refused(hub: HubServer, folder: Path, revision: str) -> None:
    store(hub, REPO, published(folder))
    assert f"{REPO} has no such revision" in refusal(f"hf-hub:{REPO}@{revision}", HubError)


@pytest.mark.parametrize("revision", ["../../x", "a..b", "/x", "-x", "x\x1b[2J"])
def test_an_invalid_revision_is_refused_without_a_request(hub: HubServer, revision: str) -> None:
    assert "is not a revision" in refusal(f"hf-hub:{REPO}@{revision}", HubError)
    assert hub.requests == []


def test_a_changed_file_in_the_cache_is_refused(hub: HubServer, folder: Path) -> None:
    store(hub, REPO, published(folder))
    load_model(REPO)
    (blob,) = (p for p in Path(constants.HF_HUB_CACHE).glob("models--*/blobs/*") if len(p.name) == 64)
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    text = refusal(REPO)
    assert "has sha256" in text
    assert f"delete {blob}" in text
    blob.unlink()
    assert_loaded(load_model(REPO), folder)
