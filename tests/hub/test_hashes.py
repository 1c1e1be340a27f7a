"""Records of verified files: a verified file is not hashed again, any other file is."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from huggingface_hub import constants

from ssia_zoo import hub as zoo_hub
from ssia_zoo.hub import hashes
from ssia_zoo.models.loading import load_model
from tests.helpers.hub_server import HubServer


@pytest.fixture
def hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were hashed, starting without records."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(hashes, "_verified", set())
    calls: list[Path] = []
    hash_file = hashes.file_sha256
    monkeypatch.setattr(hashes, "file_sha256", lambda path: calls.append(path) or hash_file(path))
    return calls


@pytest.fixture
def weight(tmp_path: Path) -> tuple[Path, str]:
    path = tmp_path / "weight.safetensors"
    path.write_bytes(b"content")
    return path, hashlib.sha256(b"content").hexdigest()


def forget_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashes, "_verified", set())


def test_a_verified_file_is_hashed_once_for_all_processes(
    hashed: list[Path], weight: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        assert hashes.differing_sha256(*weight) is None
        forget_this_process(monkeypatch)
    assert hashed == [weight[0]]


def test_a_changed_file_is_hashed_again(hashed: list[Path], weight: tuple[Path, str]) -> None:
    path, sha256 = weight
    stat = path.stat()
    assert hashes.differing_sha256(path, sha256) is None
    path.write_bytes(b"Content")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # disguised: same path, size and modification time
    assert hashes.differing_sha256(path, sha256) == hashlib.sha256(b"Content").hexdigest()
    assert hashes.differing_sha256(path, sha256) is not None, "only the expected hash is recorded"
    assert len(hashed) == 3


def test_a_record_is_for_one_expected_hash(hashed: list[Path], weight: tuple[Path, str]) -> None:
    assert hashes.differing_sha256(*weight) is None
    assert hashes.differing_sha256(weight[0], "0" * 64) == weight[1]


def test_a_file_that_changes_while_it_is_read_is_not_recorded(
    hashed: list[Path], weight: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, sha256 = weight

    def replace_after_reading(path: Path) -> str:
        path.write_bytes(b"swapped!")
        return sha256

    with monkeypatch.context() as patch:
        patch.setattr(hashes, "file_sha256", replace_after_reading)
        assert hashes.differing_sha256(path, sha256) is None
    assert hashes.differing_sha256(path, sha256) is not None


def test_a_cache_that_is_not_writable_is_no_error(
    hashed: list[Path], weight: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").write_text("a file where the cache should be")
    for _ in range(2):
        assert hashes.differing_sha256(*weight) is None
    assert len(hashed) == 1, "recorded in this process"
    forget_this_process(monkeypatch)
    assert hashes.differing_sha256(*weight) is None
    assert len(hashed) == 2


def test_a_repositorys_weights_are_hashed_at_the_first_load_only(
    hub: HubServer, folder: Path, hashed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo_hub.publish(folder, "org/model", token="hf_good")
    for _ in range(2):
        load_model("org/model")
        forget_this_process(monkeypatch)
    assert [path.name for path in hashed] == ["model.safetensors"]
