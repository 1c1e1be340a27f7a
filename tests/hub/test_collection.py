"""A collection of models: made once, updated in place, other people's items kept."""

from __future__ import annotations

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


def test_a_private_collection_stays_private(hub: HubServer, repos: list[str]) -> None:
    update({}, private=True)
    update({repos[0]: "note"})
    (collection,) = hub.collections.values()
    assert collection["private"]


def test_a_public_collection_becomes_private_if_that_is_required(hub: HubServer, repos: list[str]) -> None:
    update({})
    update({}, private=True)
    (collection,) = hub.collections.values()
    assert collection["private"]


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
    with pytest.raises(HubError, match="does not exist"):
        update({"org/absent": "note"})
