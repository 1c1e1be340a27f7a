"""Publishing to a repository that holds something: what is kept, replaced or refused, against a Hub on loopback."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import yaml
from huggingface_hub import CommitOperationAdd, HfApi

from ssia_zoo import hub as zoo_hub
from ssia_zoo.errors import HubError
from ssia_zoo.hub import BackgroundPusher
from ssia_zoo.hub.existing import Existing, look_at, merge_cards
from ssia_zoo.hub.folder import ONNX_FILES, STATEMENT
from tests.helpers.hub_server import HubServer
from tests.helpers.publishable_folder import edit_config

SECRET = "hf_good"
REPO = "org/model"
PROCESSOR = "preprocessor_config.json"

OWNERS = """---
extra_gated_prompt: |
  You agree to be kind,
  ---and patient.
extra_gated_fields:
  I agree: checkbox
language: no
license: other
license_name: mine
tags: [timm, biology]
datasets: [old/data]
---
# A model

## Notes

```python
## not a heading
```
"""
KEPT = ["extra_gated_prompt", "extra_gated_fields", "language"]


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, "ssia_zoo.hub")
    return caplog


def upload(files: dict[str, str], repo_id: str = REPO) -> str:
    api = HfApi(token=SECRET)
    api.create_repo(repo_id, exist_ok=True)
    added = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=text.encode()) for name, text in files.items()]
    return api.create_commit(repo_id, added, commit_message="by hand").oid


# --- Metadata ---------------------------------------------------------------------------------------------------------


def test_metadata_that_the_owner_added_on_the_hub_stays(
    hub: HubServer, folder: Path, said: pytest.LogCaptureFixture
) -> None:
    zoo_hub.publish(folder, REPO, token=SECRET)
    assert said.messages == []
    by_hand = upload({"README.md": OWNERS})
    url = zoo_hub.publish(folder, REPO, token=SECRET)
    card = hub.file(REPO, "README.md").decode()
    metadata = yaml.safe_load(card.split("\n---\n")[0])
    assert metadata == {
        "tags": ["timm"],
        "license": "apache-2.0",  # of the folder's own card
        "extra_gated_prompt": "You agree to be kind,\n---and patient.\n",
        "extra_gated_fields": {"I agree": "checkbox"},
        "language": "no",
    }
    assert card.endswith("\n---\n# A model\n")
    assert said.messages == [
        f"{REPO}: README.md keeps what was set on the Hub: {', '.join(KEPT)}",
        f"{REPO}: README.md replaces what it had in commit {by_hand}: license, license_name, tags, datasets, ## Notes",
    ]
    said.clear()
    assert zoo_hub.publish(folder, REPO, token=SECRET) == url, "no new commit"
    assert said.messages[-1] == f"{REPO}: README.md keeps what was set on the Hub: {', '.join(KEPT)}"


def test_a_card_without_metadata_gets_that_of_the_repository(hub: HubServer, folder: Path) -> None:
    (folder / "README.md").write_text("# Mine\n")
    upload({"README.md": "---\r\nlicense: mit\r\n---\r\n# Old\r\n"})
    zoo_hub.publish(folder, REPO, token=SECRET)
    assert hub.file(REPO, "README.md").decode() == "---\nlicense: mit\n---\n\n# Mine\n"


@pytest.mark.parametrize("theirs", ["---\ntags: [unclosed\n---\n", "---\n- a list\n---\n"])
def test_metadata_that_cannot_be_read_is_replaced_and_said(theirs: str) -> None:
    ours = "---\nlicense: mit\n---\n"
    card, (line,) = merge_cards(ours, Existing(REPO, revision="abc", card=theirs))
    assert card == ours
    assert line == f"{REPO}: README.md replaces what it had in commit abc: its metadata, which is not valid YAML"


def test_results_of_an_earlier_card_are_replaced_without_a_word() -> None:
    there = Existing(REPO, card="---\nmodel-index:\n- name: old\n---\n# Old\n")
    assert merge_cards("# New\n", there) == ("# New\n", [])


def test_pushes_of_one_training_name_what_stays_once(
    hub: HubServer, folder: Path, said: pytest.LogCaptureFixture
) -> None:
    by_hand = upload({"README.md": "---\nlicense_name: mine\n---\n## Mine\n"})
    pusher = BackgroundPusher(folder, REPO, token=SECRET)
    for text in ("# One\n", "# Two\n"):
        (folder / "README.md").write_text(text)
        pusher.push(text)
        assert pusher.close() == []
    assert hub.file(REPO, "README.md").decode() == "---\nlicense_name: mine\n---\n\n# Two\n"
    assert [line.split(": ", 1)[1] for line in said.messages] == [
        "README.md keeps what was set on the Hub: license_name",
        f"README.md replaces what it had in commit {by_hand}: ## Mine",
    ]


def test_a_signed_card_has_the_kept_metadata_or_is_refused(hub: HubServer, folder: Path) -> None:
    upload({"README.md": OWNERS})
    (folder / STATEMENT).write_text("{}")
    with pytest.raises(HubError, match="which the signed statement does not cover: call prepare_card before signing"):
        zoo_hub.publish(folder, REPO, token=SECRET, extra=[STATEMENT])
    zoo_hub.prepare_card(folder, REPO, token=SECRET)
    zoo_hub.publish(folder, REPO, token=SECRET, extra=[STATEMENT])
    assert hub.file(REPO, "README.md") == (folder / "README.md").read_bytes()
    assert "language: 'no'" in (folder / "README.md").read_text()


def test_preparing_a_card_fails_in_one_line(hub: HubServer, folder: Path) -> None:
    with pytest.raises(HubError, match=r"token is not valid.*; repeat with: this"):
        zoo_hub.prepare_card(folder, REPO, token="hf_wrong", repeat="this")


# --- Another model ----------------------------------------------------------------------------------------------------

OTHERS = [
    ({"config.json": '{"model_type": "bert"}', "vocab.txt": "x"}, "model_type bert"),
    ({"config.json": '{"num_labels": 2}'}, "its config.json names no architecture of timm's"),
    ({"config.json": '{"architecture": 7}'}, "its config.json names no architecture of timm's"),
    ({"config.json": "[]"}, "its config.json is not valid"),
    ({"config.json": "{"}, "its config.json is not valid"),
    ({"model.safetensors": "x"}, "model.safetensors, without config.json"),
    ({"pytorch_model.bin": "x"}, "pytorch_model.bin, without config.json"),
]
OTHER_TIMM = [
    ({"config.json": '{"architecture": "resnet50", "ssia": {}}'}, "architecture resnet50"),
    ({"config.json": '{"architecture": "test_resnet"}'}, "test_resnet, not trained with SSIA Zoo"),
]


@pytest.fixture
def trained(folder: Path) -> Path:
    """A folder like that of a training: its config.json has the key "ssia"."""
    edit_config(folder, lambda config: config.update(ssia={}))
    return folder


@pytest.mark.parametrize(("files", "kind"), OTHERS + OTHER_TIMM)
def test_another_model_is_replaced_on_request_only(
    files: dict[str, str], kind: str, hub: HubServer, trained: Path
) -> None:
    upload(files)
    before = hub.repos[REPO].resolve("main").files
    with pytest.raises(HubError) as refused:
        zoo_hub.publish(trained, REPO, token=SECRET, repeat="this")
    expected = f"{REPO} holds another model ({kind}); choose another name, or publish with `replace`"
    assert str(refused.value) == f"could not push to {REPO}: {expected}; repeat with: this"
    assert hub.repos[REPO].resolve("main").files == before

    pusher = BackgroundPusher(trained, REPO, token=SECRET)
    pusher.push("during training")
    (failure,) = pusher.close()
    assert expected in failure
    assert hub.repos[REPO].resolve("main").files == before

    zoo_hub.publish(trained, REPO, token=SECRET, replace=True)
    assert json.loads(hub.file(REPO, "config.json"))["architecture"] == "test_resnet"


@pytest.mark.parametrize(("files", "kind"), [*OTHERS, OTHER_TIMM[1]])
def test_another_model_is_found_before_a_training(files: dict[str, str], kind: str, hub: HubServer) -> None:
    upload(files)
    text = zoo_hub.check_access(REPO, token=SECRET)
    assert text is not None
    assert f"{REPO} holds another model ({kind})" in text


def test_a_model_of_this_package_is_replaced_without_a_question(hub: HubServer, trained: Path) -> None:
    upload({"config.json": '{"architecture": "test_resnet", "num_classes": 3, "ssia": {}}', "notes.md": "x"})
    assert zoo_hub.check_access(REPO, token=SECRET) is None
    zoo_hub.publish(trained, REPO, token=SECRET)
    edit_config(trained, lambda config: config.pop("ssia"))
    zoo_hub.publish(trained, REPO, token=SECRET)


def test_a_repository_without_a_model_is_free(hub: HubServer, trained: Path, said: pytest.LogCaptureFixture) -> None:
    upload({"README.md": "# A model\n", "notes.txt": "x", ONNX_FILES[0]: "x", PROCESSOR: "{}"})
    zoo_hub.publish(trained, REPO, token=SECRET)
    assert said.messages[-1].startswith(f"{REPO} still has {ONNX_FILES[0]}, {PROCESSOR}, already there")


# --- Changed or hidden ------------------------------------------------------------------------------------------------


def test_what_changes_on_the_hub_during_an_upload_is_not_overwritten(
    hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo_hub.publish(folder, REPO, token=SECRET)
    looked = look_at

    def look_and_change(api: HfApi, repo_id: str) -> Existing:
        there = looked(api, repo_id)
        upload({"README.md": OWNERS})
        return there

    monkeypatch.setattr("ssia_zoo.hub.upload.look_at", look_and_change)
    with pytest.raises(HubError, match="was changed on the Hub during the upload, and nothing was replaced; repeat"):
        zoo_hub.publish(folder, REPO, token=SECRET, repeat="the command")
    assert hub.file(REPO, "README.md").decode() == OWNERS


def test_a_private_repository_stays_private_and_that_is_said(
    hub: HubServer, folder: Path, said: pytest.LogCaptureFixture
) -> None:
    zoo_hub.publish(folder, REPO, token=SECRET, private=True)
    assert said.messages == []
    zoo_hub.publish(folder, REPO, token=SECRET)
    assert hub.repos[REPO].private
    line = f"{REPO} is private and stays so; make it public in its settings on the Hub if others should see it"
    assert line in said.messages
