"""The tests' Hub server behaves like the real Hub for the real client."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import get_session

from tests.helpers.hub_server import HubServer


@pytest.fixture
def api(hub: HubServer) -> HfApi:
    return HfApi(endpoint=hub.url, token="hf_good")


def add(path: str, content: bytes) -> CommitOperationAdd:
    return CommitOperationAdd(path_in_repo=path, path_or_fileobj=content)


def commit(api: HfApi, **files: bytes) -> str:
    operations = [add(path.replace("__", "/").replace("_", "."), content) for path, content in files.items()]
    return str(api.create_commit("org/model", operations, commit_message="Add files").oid)


def test_uploaded_files_are_listed_and_downloaded_unchanged(api: HfApi, hub: HubServer) -> None:
    api.create_repo("org/model")
    weights = bytes(range(256)) * 500
    card = b"---\ntags: [timm]\nlicense: mit\n---\n# A card\n"
    oid = commit(api, model_safetensors=weights, README_md=card, logs__a_txt=b"log")

    info = api.model_info("org/model")
    assert (info.sha, info.private, info.card_data.license) == (oid, False, "mit")
    assert set(api.list_repo_files("org/model")) == {"model.safetensors", "README.md", "logs/a.txt"}
    assert {entry.path for entry in api.list_repo_tree("org/model")} == {"model.safetensors", "README.md", "logs"}
    assert [entry.path for entry in api.list_repo_tree("org/model", "logs")] == ["logs/a.txt"]
    (listed,) = api.get_paths_info("org/model", ["model.safetensors", "absent"])
    assert listed.size == len(weights)
    assert listed.lfs.sha256 == api.get_paths_info("org/model", "model.safetensors")[0].lfs.sha256
    assert [entry.title for entry in api.list_repo_commits("org/model")] == ["Add files", "initial commit"]
    for name, content in (("model.safetensors", weights), ("README.md", card)):
        assert Path(hf_hub_download("org/model", name, endpoint=hub.url)).read_bytes() == content
    assert ("POST", "/org/model.git/info/lfs/objects/batch") in hub.requests


def test_a_range_of_bytes_is_served(api: HfApi, hub: HubServer) -> None:
    api.create_repo("org/model")
    commit(api, model_safetensors=b"0123456789")
    url = f"{hub.url}/org/model/resolve/main/model.safetensors"
    answer = get_session().get(url, headers={"Range": "bytes=3-5"})
    assert (answer.status_code, answer.content, answer.headers["Content-Range"]) == (206, b"345", "bytes 3-5/10")
    assert get_session().get(url, headers={"Range": "bytes=10-"}).status_code == 416
    head = get_session().head(url)
    assert (head.headers["Content-Length"], head.headers["X-Linked-Size"], head.content) == ("10", "10", b"")


def test_a_branch_with_a_slash_has_its_own_files(api: HfApi) -> None:
    api.create_repo("org/model")
    commit(api, a_txt=b"one")
    api.create_branch("org/model", branch="feature/x")
    api.create_commit("org/model", [add("b.txt", b"two")], commit_message="b", revision="feature/x")
    api.create_commit("org/model", [CommitOperationDelete("a.txt")], commit_message="no a", revision="feature/x")

    assert api.list_repo_files("org/model", revision="feature/x") == ["b.txt"]
    assert api.list_repo_files("org/model", revision="main") == ["a.txt"]
    assert {branch.name for branch in api.list_repo_refs("org/model").branches} == {"main", "feature/x"}
    api.delete_branch("org/model", branch="feature/x")
    with pytest.raises(RevisionNotFoundError):
        api.model_info("org/model", revision="feature/x")


def test_missing_repositories_revisions_and_files_are_distinguished(api: HfApi, hub: HubServer) -> None:
    api.create_repo("org/model")
    commit(api, a_txt=b"one")
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("org/absent")
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download("org/model", "a.txt", revision="absent", endpoint=hub.url)
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("org/model", "absent.txt", endpoint=hub.url)


def test_permissions_are_checked(api: HfApi, hub: HubServer) -> None:
    api.create_repo("org/model", private=True)
    with pytest.raises(HfHubHTTPError) as conflict:
        api.create_repo("org/model")
    assert conflict.value.response.status_code == 409
    api.create_repo("org/model", exist_ok=True)

    def status(token: str | bool, repo_id: str) -> int:
        with pytest.raises(HfHubHTTPError) as refused:
            HfApi(endpoint=hub.url, token=token).create_repo(repo_id)
        return int(refused.value.response.status_code)

    assert (status("hf_bad", "org/new"), status("hf_other", "org/new"), status("hf_read", "org/new")) == (401, 403, 403)
    assert status(False, "org/new") == 401
    for token in (False, "hf_other"):
        with pytest.raises(RepositoryNotFoundError):
            HfApi(endpoint=hub.url, token=token).model_info("org/model")
    assert api.model_info("org/model").private
    assert api.whoami()["name"] == "alice"


def test_a_readme_with_broken_metadata_is_refused_before_any_upload(api: HfApi, hub: HubServer) -> None:
    api.create_repo("org/model")
    with pytest.raises(ValueError, match="Invalid metadata"):
        commit(api, README_md=b"---\ntags: [unclosed\n---\n")
    assert not any("/commit/" in path for _, path in hub.requests)


@pytest.mark.usefixtures("impatient_client")
def test_a_dying_server_cuts_the_upload_and_stays_dead(api: HfApi, hub: HubServer) -> None:
    api.create_repo("org/model")
    hub.die_after_bytes = 1000
    with pytest.raises(RuntimeError, match="Error while uploading"):
        commit(api, model_safetensors=bytes(5_000_000))
    assert hub.dead
    with pytest.raises(URLError, match="refused"):
        urlopen(hub.url)
