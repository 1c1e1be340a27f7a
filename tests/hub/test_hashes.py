"""The memory of verified files: what was found good is not read again, and nothing else is believed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from huggingface_hub import constants

from ssia_zoo import hub as zoo_hub
from ssia_zoo.hub import hashes as _verified
from ssia_zoo.models.loading import load_model
from tests.helpers.hub_server import HubServer


@pytest.fixture
def hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were hashed, with an empty memory of its own."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(_verified, "_seen", set())
    calls: list[Path] = []
    hash_file = _verified.file_sha256
    monkeypatch.setattr(_verified, "file_sha256", lambda path: calls.append(path) or hash_file(path))
    return calls


@pytest.fixture
def weight(tmp_path: Path) -> tuple[Path, str]:
    path = tmp_path / "weight.safetensors"
    path.write_bytes(b"content")
    return path, hashlib.sha256(b"content").hexdigest()


def forget_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_verified, "_seen", set())


def test_a_good_file_is_hashed_once_even_by_another_process(
    hashed: list[Path], weight: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        assert _verified.differing_sha256(*weight) is None
        forget_this_process(monkeypatch)
    assert hashed == [weight[0]]


def test_a_changed_file_is_hashed_again(hashed: list[Path], weight: tuple[Path, str]) -> None:
    path, sha256 = weight
    stat = path.stat()
    assert _verified.differing_sha256(path, sha256) is None
    path.write_bytes(b"Content")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # disguised: same path, size and modification time
    assert _verified.differing_sha256(path, sha256) == hashlib.sha256(b"Content").hexdigest()
    assert _verified.differing_sha256(path, sha256) is not None, "a bad file is never remembered"
    assert len(hashed) == 3


def test_another_expected_hash_is_not_taken_for_found(hashed: list[Path], weight: tuple[Path, str]) -> None:
    assert _verified.differing_sha256(*weight) is None
    assert _verified.differing_sha256(weight[0], "0" * 64) == weight[1]


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    hashed: list[Path], weight: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, sha256 = weight

    def replace_after_reading(path: Path) -> str:
        path.write_bytes(b"swapped!")
        return sha256

    with monkeypatch.context() as patch:
        patch.setattr(_verified, "file_sha256", replace_after_reading)
        assert _verified.differing_sha256(path, sha256) is None
    assert _verified.differing_sha256(path, sha256) is not None


def test_a_cache_that_cannot_be_written_does_not_matter(
    hashed: list[Path], weight: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").write_text("a file where the cache should be")
    for _ in range(2):
        assert _verified.differing_sha256(*weight) is None
    assert len(hashed) == 1, "this process remembers"
    forget_this_process(monkeypatch)
    assert _verified.differing_sha256(*weight) is None
    assert len(hashed) == 2


def test_a_repositorys_weights_are_hashed_at_the_first_load_only(
    hub: HubServer, folder: Path, hashed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo_hub.publish(folder, "org/model", token="hf_good")
    for _ in range(2):
        load_model("org/model")
        forget_this_process(monkeypatch)
    assert [path.name for path in hashed] == ["model.safetensors"]
