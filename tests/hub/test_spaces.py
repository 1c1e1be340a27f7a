"""Upload a Space with the real client, against a Hub server on loopback."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from ssia_zoo.errors import HubError
from ssia_zoo.hub import publish_space
from tests.helpers.hub_server import HubServer

SECRET = "hf_good"
REPO = "org/page"


@pytest.fixture
def space(tmp_path: Path) -> Path:
    folder = tmp_path / "space"
    for name in ("app.py", "ssia_zoo/__init__.py", "ssia_zoo/a.py", "models/mine/config.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "README.md").write_text("---\ntitle: page\nsdk: gradio\n---\n")
    return folder


def files(private: bool = False) -> set[str]:
    return set(HfApi(token=SECRET if private else None).list_repo_files(REPO, repo_type="space"))


def test_all_files_are_uploaded_to_a_space(hub: HubServer, space: Path) -> None:
    url = publish_space(space, REPO, token=SECRET)
    assert url.startswith(f"{hub.url}/spaces/{REPO}/commit/")
    assert files() == {"README.md", "app.py", "ssia_zoo/__init__.py", "ssia_zoo/a.py", "models/mine/config.json"}
    assert list(hub.repos) == [f"spaces/{REPO}"]


def test_what_an_earlier_upload_has_too_much_is_deleted_and_other_files_stay(hub: HubServer, space: Path) -> None:
    publish_space(space, REPO, token=SECRET)
    HfApi(token=SECRET).upload_file(path_or_fileobj=b"x", path_in_repo="notes.md", repo_id=REPO, repo_type="space")
    (space / "models" / "mine" / "config.json").unlink()
    (space / "ssia_zoo" / "a.py").rename(space / "ssia_zoo" / "b.py")
    publish_space(space, REPO, token=SECRET)
    assert files() == {"README.md", "app.py", "ssia_zoo/__init__.py", "ssia_zoo/b.py", "notes.md"}


def test_another_space_is_replaced_on_request_only(hub: HubServer, space: Path) -> None:
    api = HfApi(token=SECRET)
    api.create_repo(REPO, repo_type="space", space_sdk="gradio")
    for name in (".gitattributes", "README.md"):  # the Hub's own
        api.upload_file(path_or_fileobj=b"x", path_in_repo=name, repo_id=REPO, repo_type="space")
    publish_space(space, REPO, token=SECRET)

    api.create_repo("org/chat", repo_type="space", space_sdk="gradio")
    for name in ("app.py", "models/bert/weights.bin"):
        api.upload_file(path_or_fileobj=b"x", path_in_repo=name, repo_id="org/chat", repo_type="space")
    before = hub.repos["spaces/org/chat"].resolve("main").files
    with pytest.raises(
        HubError, match=r"org/chat is another Space \(app\.py, .*choose another name, or publish with `replace`"
    ):
        publish_space(space, "org/chat", token=SECRET)
    assert hub.repos["spaces/org/chat"].resolve("main").files == before
    publish_space(space, "org/chat", token=SECRET, replace=True)
    assert hub.file("spaces/org/chat", "app.py") == b"app.py"


def test_a_private_space_never_becomes_public(hub: HubServer, space: Path) -> None:
    publish_space(space, REPO, private=True, token=SECRET)
    assert hub.repos[f"spaces/{REPO}"].private
    HfApi(token=SECRET).create_repo("org/open", repo_type="space", space_sdk="gradio")
    with pytest.raises(HubError, match="is public, but a private Space is required"):
        publish_space(space, "org/open", private=True, token=SECRET)
    assert hub.repos["spaces/org/open"].resolve("main").files == {}


@pytest.mark.parametrize(
    ("token", "repo_id", "expected"),
    [
        (None, REPO, "no token found"),
        ("hf_read", REPO, "cannot write to org/page"),
        (SECRET, "page", "not a repository id"),
    ],
)
def test_a_refused_upload_reports_why_and_how_to_repeat_it(
    token: str | None, repo_id: str, expected: str, hub: HubServer, space: Path
) -> None:
    with pytest.raises(HubError) as refused:
        publish_space(space, repo_id, token=token, repeat="repeat this command")
    assert expected in str(refused.value)
    assert str(refused.value).endswith("; repeat with: repeat this command")
    assert hub.repos == {}


def test_a_private_space_stays_private_and_that_is_said(
    hub: HubServer, space: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "ssia_zoo.hub")
    publish_space(space, REPO, token=SECRET, private=True)
    assert caplog.messages == []
    publish_space(space, REPO, token=SECRET)
    assert any(line.startswith(f"the Space {REPO} is private and stays so; make it") for line in caplog.messages)
