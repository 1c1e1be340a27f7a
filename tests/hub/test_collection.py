"""A collection of models: made once, updated in place, other people's items kept."""

from __future__ import annotations

import logging
from base64 import b64encode
from typing import Any

import pytest
from huggingface_hub import HfApi

from ssia_zoo.errors import HubError
from ssia_zoo.hub import update_collection
from tests.helpers.hub_server import HubServer

SECRET = "hf_good"


@pytest.fixture
def repos(hub: HubServer) -> list[str]:
    names = [f"org/model{number}" for number in range(6)]  # more than a list of collections shows
    for name in names:
        HfApi(token=SECRET).create_repo(name)
    return names


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, "ssia_zoo.hub")
    return caplog


def update(models: dict[str, str], **changes: Any) -> str:
    arguments = {"description": "All models", "token": SECRET} | changes
    return update_collection("org", "The Zoo", models, **arguments)


def writes(hub: HubServer) -> list[str]:
    return [method for method, path in hub.requests if method != "GET" and path.startswith("/api/collections")]


def test_a_collection_is_created_and_updated_in_place(hub: HubServer, repos: list[str]) -> None:
    url = update({repo: "first" for repo in repos[:5]})
    assert url.startswith(f"{hub.url}/collections/org/the-zoo-")
    (slug,) = hub.collections
    api = HfApi(token=SECRET)
    assert [(item.item_id, item.note) for item in api.get_collection(slug).items] == [
        (repo, "first") for repo in repos[:5]
    ]
    assert update({repo: "second" if repo == repos[0] else "first" for repo in repos}, description="More") == url
    found = api.get_collection(slug)
    assert [item.note for item in found.items] == ["second", *["first"] * 5]
    assert (found.description, found.private) == ("More", False)


def test_an_update_without_changes_writes_nothing(hub: HubServer, repos: list[str]) -> None:
    models = {repo: "note" for repo in repos}
    update(models)
    before = len(writes(hub))
    update(models)
    assert len(writes(hub)) == before


def test_items_that_others_added_stay(hub: HubServer, repos: list[str]) -> None:
    update({repos[0]: "note"})
    (slug,) = hub.collections
    HfApi(token=SECRET).add_collection_item(slug, repos[1], "model", note="mine")
    update({repos[0]: "note"})
    assert [item["id"] for item in hub.collections[slug]["items"]] == repos[:2]


def test_a_private_collection_stays_private_and_that_is_said(
    hub: HubServer, repos: list[str], said: pytest.LogCaptureFixture
) -> None:
    update({}, private=True)
    assert said.messages == []
    update({repos[0]: "note"})
    (collection,) = hub.collections.values()
    assert collection["private"]
    (line,) = said.messages
    assert line.startswith("the collection 'The Zoo' is private and stays so;")


def test_a_public_collection_becomes_private_if_that_is_required_and_that_is_said(
    hub: HubServer, repos: list[str], said: pytest.LogCaptureFixture
) -> None:
    update({})
    update({}, private=True)
    (collection,) = hub.collections.values()
    assert collection["private"]
    assert said.messages == ["the collection 'The Zoo' was public and is private now"]


def test_what_was_written_by_hand_and_is_replaced_is_quoted(
    hub: HubServer, repos: list[str], said: pytest.LogCaptureFixture
) -> None:
    update({repos[0]: "note"})
    (collection,) = hub.collections.values()
    collection["description"] = "Mine"
    collection["items"][0]["note"] = {"text": "RECALLED:\nlabels swapped"}
    update({repos[0]: "note"})
    assert said.messages == [
        "the description of the collection 'The Zoo' is replaced; it was: Mine",
        f"the note of {repos[0]} in the collection 'The Zoo' is replaced; it was: RECALLED: labels swapped",
    ]


def test_the_collection_of_another_owner_with_this_title_is_not_taken(hub: HubServer, repos: list[str]) -> None:
    other = HfApi(token=SECRET).create_collection("The Zoo", namespace="alice")
    assert "/collections/org/the-zoo-" in update({repos[0]: "note"})
    assert hub.collections[other.slug]["items"] == []


def test_the_address_has_no_password(hub: HubServer, repos: list[str]) -> None:
    hub.tokens["Basic " + b64encode(b"alice:s3cret").decode()] = hub.tokens[SECRET]  # what the client sends then
    url = update({repos[0]: "note"}, endpoint=hub.url.replace("//", "//alice:s3cret@"))
    assert "s3cret" not in url
    assert url.startswith(f"{hub.url}/collections/")


@pytest.mark.parametrize(
    ("token", "expected"), [(None, "no token"), ("hf_read", "cannot write"), ("hf_wrong", "not valid")]
)
def test_failures_are_one_line_without_the_token(
    hub: HubServer, token: str | None, expected: str, repos: list[str]
) -> None:
    with pytest.raises(HubError, match=expected) as failed:
        update({}, token=token, repeat="the command")
    assert str(failed.value).startswith("could not update the collection 'The Zoo' of org: ")
    assert str(failed.value).endswith("; repeat with: the command")
    assert token is None or token not in str(failed.value)
    assert hub.collections == {}


def test_a_model_that_does_not_exist_is_named(hub: HubServer) -> None:
    with pytest.raises(HubError, match="of org: org/absent does not exist"):
        update({"org/absent": "note"})
