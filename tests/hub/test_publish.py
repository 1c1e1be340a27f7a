"""Publishing and fetching with the real client, against a Hub server on loopback."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import HfApi, constants
from safetensors.torch import load_file

from ssia_zoo import hub as zoo_hub
from ssia_zoo.errors import ConfigError, HubError, WeightError
from ssia_zoo.hub import BackgroundPusher
from ssia_zoo.hub.folder import STATEMENT
from tests.helpers.hub_server import HubServer
from tests.helpers.publishable_folder import contents, edit_config, edit_weights

SECRET = "hf_good"
REPO = "org/model"
REPEAT = "repeat this command"

LOAD_WITH_VANILLA_TIMM = """
import sys, timm
from safetensors.torch import save_file
model = timm.create_model(f"hf-hub:{sys.argv[1]}", pretrained=True)
assert not [name for name in sys.modules if name.startswith("ssia_zoo")]
save_file(model.state_dict(), sys.argv[2])
"""


def load_in_a_new_process(repo_id: str, out: Path, token: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LOAD_WITH_VANILLA_TIMM, repo_id, str(out)]
    environment = os.environ | ({"HF_TOKEN": token} if token else {})
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=out.parent)


def assert_same_weights(loaded: Path, folder: Path) -> None:
    expected, actual = load_file(folder / "model.safetensors"), load_file(loaded)
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


# --- Publishing -------------------------------------------------------------------------------------------------------


def test_a_published_model_loads_in_vanilla_timm_with_identical_tensors(
    hub: HubServer, folder: Path, tmp_path: Path
) -> None:
    before = contents(folder)
    url = zoo_hub.publish(folder, REPO, token=SECRET, endpoint=hub.url, message="First weights")
    assert url.startswith(f"{hub.url}/{REPO}/commit/")
    assert contents(folder) == before

    api = HfApi(endpoint=hub.url)
    assert set(api.list_repo_files(REPO)) == set(zoo_hub.PUBLISHED_FILES)
    assert [commit.title for commit in api.list_repo_commits(REPO)] == ["First weights", "initial commit"]
    done = load_in_a_new_process(REPO, tmp_path / "loaded.safetensors")
    assert done.returncode == 0, done.stderr
    assert_same_weights(tmp_path / "loaded.safetensors", folder)


def test_publishing_again_unchanged_adds_no_commit(hub: HubServer, folder: Path) -> None:
    first = zoo_hub.publish(folder, REPO, token=SECRET)
    assert zoo_hub.publish(folder, REPO, token=SECRET) == first


def test_a_statement_of_an_earlier_upload_that_stays_is_said(
    hub: HubServer, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def warned(*extra: str) -> list[str]:
        caplog.clear()
        zoo_hub.publish(folder, REPO, token=SECRET, endpoint=hub.url, extra=extra)
        return [record.message for record in caplog.records if record.name == "ssia_zoo.hub"]

    (folder / STATEMENT).write_text("{}", encoding="utf-8")
    assert warned() == warned(STATEMENT) == []
    (line,) = warned()
    assert f"{REPO} still has {STATEMENT}, already there" in line


def test_a_private_repository_is_seen_only_with_a_token(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    zoo_hub.publish(folder, REPO, private=True, token=SECRET)
    assert hub.repos[REPO].private
    oid = hub.repos[REPO].resolve("main").oid
    sha256 = zoo_hub.file_sha256(folder / "model.safetensors")
    with pytest.raises(HubError, match="does not exist, or is private"):
        zoo_hub.fetch(REPO, "model.safetensors", revision=oid, sha256=sha256)
    path = zoo_hub.fetch(REPO, "model.safetensors", revision=oid, sha256=sha256, token=SECRET)
    assert path.read_bytes() == (folder / "model.safetensors").read_bytes()

    done = load_in_a_new_process(REPO, tmp_path / "loaded.safetensors", token=SECRET)
    assert done.returncode == 0, done.stderr
    assert_same_weights(tmp_path / "loaded.safetensors", folder)


def test_a_private_push_never_goes_to_a_public_repository(hub: HubServer, folder: Path) -> None:
    HfApi(token=SECRET).create_repo(REPO)
    with pytest.raises(HubError, match="is public, but a private repository is required"):
        zoo_hub.publish(folder, REPO, private=True, token=SECRET)
    assert hub.repos[REPO].resolve("main").files == {}


@pytest.mark.parametrize(
    ("token", "repo_id", "expected"),
    [
        (None, REPO, "no token found; log in with `hf auth login` or set HF_TOKEN"),
        ("hf_wrong", REPO, "token is not valid; log in with `hf auth login` or set HF_TOKEN"),
        ("hf_other", REPO, "the token cannot write to org/model"),
        ("hf_read", REPO, "the token cannot write to org/model"),
        (SECRET, "bob/model", "the token cannot write to bob/model"),
        (SECRET, "model", "not a repository id"),
        (SECRET, "org/a/b", "not a repository id"),
        (SECRET, "org/mod el", "not a repository id"),
    ],
)
def test_a_refused_push_reports_why_and_how_to_repeat_it(
    hub: HubServer, folder: Path, token: str | None, repo_id: str, expected: str
) -> None:
    with pytest.raises(HubError) as refused:
        zoo_hub.publish(folder, repo_id, token=token, repeat=REPEAT)
    text = str(refused.value)
    assert expected in text
    assert "\n" not in text
    assert text.endswith(f"repeat with: {REPEAT}")
    assert hub.repos == {}


@pytest.mark.usefixtures("impatient_client")
def test_after_a_server_died_during_the_upload_a_second_push_succeeds(hub: HubServer, folder: Path) -> None:
    before = contents(folder)
    hub.die_after_bytes = 1000
    with pytest.raises(HubError) as died:
        zoo_hub.publish(folder, REPO, private=True, token=SECRET)
    assert hub.dead
    assert f"cannot reach the Hub at {hub.url}, or lost the connection" in str(died.value)
    assert "repeat with" not in str(died.value)
    assert contents(folder) == before

    with HubServer(tokens={SECRET: "alice"}, orgs={"alice": ["org"]}) as healthy:
        zoo_hub.publish(folder, REPO, private=True, token=SECRET, endpoint=healthy.url)
        assert healthy.file(REPO, "model.safetensors") == before["model.safetensors"]


def test_a_hub_that_is_not_there_is_named(hub: HubServer, folder: Path) -> None:
    with pytest.raises(HubError, match=r"cannot reach the Hub at http://127\.0\.0\.1:1"):
        zoo_hub.publish(folder, REPO, token=SECRET, endpoint="http://127.0.0.1:1")


def test_offline_mode_is_named_as_the_reason(hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="unset HF_HUB_OFFLINE"):
        zoo_hub.publish(folder, REPO, token=SECRET)


def test_a_readme_with_broken_metadata_is_named(hub: HubServer, folder: Path) -> None:
    (folder / "README.md").write_text("---\ntags: [unclosed\n---\n")
    with pytest.raises(HubError, match=r"Invalid metadata in README\.md"):
        zoo_hub.publish(folder, REPO, token=SECRET)


@pytest.mark.parametrize("token", ["hf_wrong", "hf_wrong\nX-Evil: 1", "hf_" + "Q7" * 20, "hf_wröng"])
def test_no_error_holds_the_token(hub: HubServer, folder: Path, token: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ssia_zoo")
    with pytest.raises(HubError) as refused:
        zoo_hub.publish(folder, REPO, token=token)
    assert refused.value.__cause__ is None
    assert refused.value.__context__ is None
    with pytest.raises(HubError) as unfetched:
        zoo_hub.fetch(REPO, "model.safetensors", revision="main", sha256="0" * 64, token=token)
    pusher = BackgroundPusher(folder, REPO, token=token)
    pusher.push("message")
    texts = [str(refused.value), str(unfetched.value), *pusher.close(), caplog.text]
    texts.append(str(zoo_hub.check_access(REPO, token=token)))
    assert len(texts) == 5
    for text in texts:
        assert token not in text
        assert token.split("\n")[0] not in text


def test_a_folder_can_replace_the_hub(folder: Path, tmp_path: Path) -> None:
    destination = tmp_path / "hub" / "org" / "model"
    assert zoo_hub.publish_to_folder(folder, destination) == destination
    assert contents(destination) == {name: (folder / name).read_bytes() for name in zoo_hub.PUBLISHED_FILES}
    assert [path.name for path in destination.parent.iterdir()] == ["model"]
    model = timm.create_model(f"local-dir:{destination}", pretrained=True)
    assert model.num_classes == 7

    before = contents(destination)
    with pytest.raises(ConfigError, match="not an empty folder"):
        zoo_hub.publish_to_folder(folder, destination)
    assert contents(destination) == before
    (tmp_path / "empty").mkdir()
    zoo_hub.publish_to_folder(folder, tmp_path / "empty")
    with pytest.raises(ConfigError, match="cannot write"):
        zoo_hub.publish_to_folder(folder, folder / "README.md" / "below")


def test_a_damaged_folder_is_not_uploaded(hub: HubServer, folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors.update(predictor=torch.zeros(2)))
    with pytest.raises(WeightError):
        zoo_hub.publish(folder, REPO, token=SECRET)
    assert hub.requests == []


# --- Access before a training -----------------------------------------------------------------------------------------


def test_the_own_namespace_and_organizations_are_accessible(hub: HubServer) -> None:
    assert zoo_hub.check_access(REPO, token=SECRET, endpoint=hub.url) is None
    assert zoo_hub.check_access("alice/model", token=f"{SECRET}\n") is None
    assert {method for method, _ in hub.requests} == {"GET"}


@pytest.mark.parametrize(
    ("token", "repo_id", "expected"),
    [
        (None, REPO, "no token"),
        ("hf_wrong", REPO, "not valid"),
        ("hf_other", REPO, "bob cannot write to the namespace 'org', only to: bob"),
        ("hf_read", REPO, "the token is read-only"),
        (SECRET, "model", "not a repository id"),
    ],
)
def test_missing_access_is_reported_in_one_line(hub: HubServer, token: str | None, repo_id: str, expected: str) -> None:
    text = zoo_hub.check_access(repo_id, token=token, private=True)
    assert text is not None
    assert expected in text
    assert "\n" not in text


def test_a_public_repository_is_reported_if_a_private_one_is_required(hub: HubServer, folder: Path) -> None:
    assert zoo_hub.check_access(REPO, token=SECRET, private=True) is None
    edit_config(folder, lambda config: config.update(ssia={}))  # as a training writes
    zoo_hub.publish(folder, REPO, token=SECRET)
    text = zoo_hub.check_access(REPO, token=SECRET, private=True)
    assert text is not None
    assert "is public" in text
    assert zoo_hub.check_access(REPO, token=SECRET) is None


def test_an_unreachable_hub_is_reported(hub: HubServer) -> None:
    text = zoo_hub.check_access(REPO, token=SECRET, endpoint="http://127.0.0.1:1")
    assert text is not None
    assert "cannot reach the Hub" in text


# --- In the background ------------------------------------------------------------------------------------------------


def test_a_background_push_does_not_wait_and_the_newest_request_wins(hub: HubServer, folder: Path) -> None:
    hub.delay = 60.0
    pusher = BackgroundPusher(folder, REPO, token=SECRET, endpoint=hub.url)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    for step in range(3):
        edit_weights(folder, lambda tensors, step=step: tensors["conv1.0.weight"].fill_(float(step)))
        pusher.push(f"Step {step}")
        assert REPO not in hub.repos
    assert torch.equal(torch.rand(1), expected)  # a push keeps the random state
    hub.delay = 0.0
    assert pusher.close() == []
    titles = [commit.title for commit in HfApi().list_repo_commits(REPO)]
    assert titles[0] == "Step 2"
    assert len(titles) <= 3  # the initial commit, the upload that was in flight, the newest request
    assert hub.file(REPO, "model.safetensors") == (folder / "model.safetensors").read_bytes()
    assert not list(folder.glob(".*"))


@pytest.mark.usefixtures("impatient_client")
def test_a_background_push_never_raises(hub: HubServer, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    hub.die_after_bytes = 1000
    pusher = BackgroundPusher(folder, REPO, private=True, token=SECRET, repeat=REPEAT)
    pusher.push("First")
    pusher.close()
    (folder / "README.md").unlink()
    pusher.push("Second")
    failures = pusher.close()
    assert len(failures) == 2
    assert "cannot reach the Hub" in failures[0]
    assert "README.md is missing" in failures[1]
    for failure in failures:
        assert failure.endswith(f"; repeat with: {REPEAT}")
        assert failure in caplog.messages
    assert not list(folder.glob(".*"))


def test_closing_with_a_time_limit_reports_an_upload_that_still_runs(hub: HubServer, folder: Path) -> None:
    hub.delay = 60.0
    pusher = BackgroundPusher(folder, REPO, token=SECRET)
    pusher.push("Slow")
    (failure,) = pusher.close(timeout=0.01)
    assert "is still running" in failure
    hub.delay = 0.0
    pusher.close()
    assert "model.safetensors" in hub.repos[REPO].resolve("main").files


def test_copies_left_by_a_killed_run_are_removed(folder: Path) -> None:
    (folder / ".push-left").mkdir()
    BackgroundPusher(folder, REPO)
    assert not (folder / ".push-left").exists()


# --- Fetching ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def published(hub: HubServer, folder: Path) -> tuple[str, str]:
    """The commit and the weight's sha256."""
    zoo_hub.publish(folder, REPO, token=SECRET)
    return hub.repos[REPO].resolve("main").oid, zoo_hub.file_sha256(folder / "model.safetensors")


def test_a_fetched_file_is_verified_and_found_offline_afterwards(
    hub: HubServer, published: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    oid, sha256 = published
    path = zoo_hub.fetch(REPO, "model.safetensors", revision=oid, sha256=sha256, cache_dir=tmp_path / "cache")
    assert zoo_hub.file_sha256(path) == sha256
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    again = zoo_hub.fetch(REPO, "model.safetensors", revision=oid, sha256=sha256, cache_dir=tmp_path / "cache")
    assert again == path
    with pytest.raises(HubError, match="unset HF_HUB_OFFLINE"):
        zoo_hub.fetch(REPO, "model.safetensors", revision=oid, sha256=sha256, cache_dir=tmp_path / "empty")


def test_a_file_in_a_cache_without_links_is_verified(
    hub: HubServer, published: tuple[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    oid, _ = published

    def fetched() -> Path:
        return zoo_hub.fetch_files(REPO, ["model.safetensors"], revision=oid, token=SECRET, cache_dir=tmp_path)

    stored = fetched() / "model.safetensors"
    content = bytearray(stored.read_bytes())
    stored.unlink()
    stored.write_bytes(content)  # as where links cannot be made
    fetched()
    content[-1] ^= 1
    stored.write_bytes(content)
    with pytest.raises(WeightError, match="it is damaged or not the published file"):
        fetched()
    hub.repos.clear()
    fetched()
    assert "model.safetensors of alice/model" in caplog.text or f"model.safetensors of {REPO}" in caplog.text
    assert "is used unchecked" in caplog.text


def test_a_file_with_another_hash_is_refused(hub: HubServer, published: tuple[str, str]) -> None:
    oid, sha256 = published
    with pytest.raises(WeightError) as refused:
        zoo_hub.fetch(REPO, "model.safetensors", revision=oid, sha256="f" * 64)
    assert sha256[:12] in str(refused.value)
    assert "f" * 12 in str(refused.value)
    assert "model.safetensors" in str(refused.value)


@pytest.mark.usefixtures("impatient_client")
def test_a_failed_download_is_reported_in_one_line(hub: HubServer, published: tuple[str, str]) -> None:
    oid, sha256 = published

    def reason(repo_id: str = REPO, name: str = "model.safetensors", revision: str = oid, **where: str) -> str:
        with pytest.raises(HubError) as failed:
            zoo_hub.fetch(repo_id, name, revision=revision, sha256=sha256, **where)
        assert "\n" not in str(failed.value)
        return str(failed.value)

    assert "org/absent does not exist" in reason(repo_id="org/absent")
    assert "no such file" in reason(name="absent.safetensors")
    assert "no such revision" in reason(revision="0" * 40)
    assert "token is not valid" in reason(token="hf_wrong")
    assert "cannot reach the Hub" in reason(endpoint="http://127.0.0.1:1")


@pytest.mark.parametrize(
    "name", ["model.bin", "a/m.safetensors", "..safetensors", "../m.safetensors", "C:\\m.safetensors"]
)
def test_only_plain_safetensors_names_are_fetched(name: str) -> None:
    with pytest.raises(WeightError, match="refusing to fetch"):
        zoo_hub.fetch(REPO, name, revision="main", sha256="0" * 64)
