"""Publishing and fetching give the same files with Xet storage and without, on Hubs that have it and that do not."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _xet

from ssia_zoo import hub as zoo_hub
from ssia_zoo.errors import HubError, WeightError
from ssia_zoo.hub import BackgroundPusher
from tests.helpers.hub_server import HubServer
from tests.helpers.hub_xet import XetStorage

REPO, SECRET, WEIGHTS = "alice/model", "hf_good", "model.safetensors"


@pytest.fixture(autouse=True)
def _xet_is_on(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client uses Xet as it does by default, in a session of the test's own."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setattr(_xet, "_GLOBAL_XET_HOLDER", _xet.XetSessionHolder())
    monkeypatch.setattr(_xet, "XET_CONNECTION_INFO_CACHE", {})
    for name in ("ATTEMPTS", "DURATION"):  # it would try for minutes
        monkeypatch.setenv(f"HF_XET_CLIENT_RETRY_MAX_{name}", {"ATTEMPTS": "1", "DURATION": "1s"}[name])


@pytest.fixture
def storage(hub: HubServer, tmp_path: Path) -> XetStorage:
    """The Hub has Xet storage."""
    hub.xet = XetStorage(tmp_path / "storage")
    return hub.xet


def fetched(hub: HubServer, folder: Path, cache: Path) -> bytes:
    sha256 = zoo_hub.file_sha256(folder / WEIGHTS)
    revision = hub.repos[REPO].resolve("main").oid
    return zoo_hub.fetch(REPO, WEIGHTS, revision=revision, sha256=sha256, cache_dir=cache).read_bytes()


def test_a_repository_comes_from_xet_storage(hub: HubServer, storage: XetStorage, folder: Path, tmp_path: Path) -> None:
    zoo_hub.publish(folder, REPO, token=SECRET)
    copy = zoo_hub.fetch_repository(REPO, cache_dir=tmp_path / "cache")
    assert all((copy / name).read_bytes() == (folder / name).read_bytes() for name in zoo_hub.PUBLISHED_FILES)


def test_a_file_from_xet_storage_that_was_damaged_is_refused(
    hub: HubServer, storage: XetStorage, folder: Path, tmp_path: Path
) -> None:
    zoo_hub.publish(folder, REPO, token=SECRET)
    fetched(hub, folder, tmp_path / "cache")
    blob = next((tmp_path / "cache").rglob(WEIGHTS)).resolve()
    blob.chmod(0o644)
    blob.write_bytes(b"damaged")
    with pytest.raises(WeightError, match="damaged"):
        zoo_hub.fetch_repository(REPO, cache_dir=tmp_path / "cache")


def paths(hub: HubServer, *words: str) -> list[str]:
    return [path for _, path in hub.requests if any(word in path for word in words)]


def test_a_weight_goes_into_xet_storage_and_comes_from_it(
    hub: HubServer, storage: XetStorage, folder: Path, tmp_path: Path
) -> None:
    zoo_hub.publish(folder, REPO, token=SECRET)
    assert [file.sha256 for file in storage.files()] == [zoo_hub.file_sha256(folder / WEIGHTS)]
    assert paths(hub, "xet-write-token")
    assert fetched(hub, folder, tmp_path / "cache") == (folder / WEIGHTS).read_bytes()
    assert paths(hub, "xet-read-token")
    assert not paths(hub, "lfs")
    assert ("GET", f"/{REPO}/resolve/main/{WEIGHTS}") not in hub.requests


@pytest.mark.parametrize("up", [True, False])
@pytest.mark.parametrize("down", [True, False])
def test_the_files_are_the_same_whichever_way_they_take(
    *,
    hub: HubServer,
    storage: XetStorage,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    up: bool,
    down: bool,
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", not up)
    zoo_hub.publish(folder, REPO, token=SECRET)
    assert bool(list(storage.files())) == up
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", not down)
    assert fetched(hub, folder, tmp_path / "cache") == (folder / WEIGHTS).read_bytes()
    assert bool(paths(hub, "xet-read-token")) == (up and down)  # a file in LFS has no hash in Xet
    assert all(hub.file(REPO, name) == (folder / name).read_bytes() for name in zoo_hub.PUBLISHED_FILES)


def test_publishing_again_unchanged_adds_no_commit(hub: HubServer, storage: XetStorage, folder: Path) -> None:
    assert zoo_hub.publish(folder, REPO, token=SECRET) == zoo_hub.publish(folder, REPO, token=SECRET)


def test_a_push_in_the_background_uses_xet_too(hub: HubServer, storage: XetStorage, folder: Path) -> None:
    pusher = BackgroundPusher(folder, REPO, token=SECRET)
    pusher.push("epoch 1")
    assert pusher.close(60) == []
    assert hub.file(REPO, WEIGHTS) == (folder / WEIGHTS).read_bytes()


def test_a_hub_without_xet_is_named_with_what_to_set_and_then_everything_arrives(
    hub: HubServer, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(HubError) as refused:
        zoo_hub.publish(folder, REPO, token=SECRET)
    assert str(refused.value) == (
        f"could not push to {REPO}: the Hub at {hub.url} has no Xet storage; "
        "set HF_HUB_DISABLE_XET=1 to upload without it"
    )
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    zoo_hub.publish(folder, REPO, token=SECRET)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)  # downloads need no setting
    assert fetched(hub, folder, tmp_path / "cache") == (folder / WEIGHTS).read_bytes()


def test_storage_that_cannot_be_reached_is_named_with_what_to_set(
    hub: HubServer, storage: XetStorage, folder: Path
) -> None:
    storage.url = "http://127.0.0.1:9"  # as behind a firewall that lets only the Hub through
    with pytest.raises(HubError, match="HF_HUB_DISABLE_XET=1") as refused:
        zoo_hub.publish(folder, REPO, token=SECRET)
    assert "127.0.0.1:9" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert SECRET not in str(refused.value)
