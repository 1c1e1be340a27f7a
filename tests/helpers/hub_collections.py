"""Collections and evaluation results of the Hub for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml
from huggingface_hub import parse_eval_result_entries
from starlette.responses import JSONResponse, Response

from tests.helpers.hub_store import Blob, HubFault

if TYPE_CHECKING:
    from tests.helpers.hub_server import Call

_LISTED_ITEMS = 4
"""Of a collection in a list, as on the Hub; a collection's own address returns all."""


def eval_results(files: dict[str, Blob]) -> list[dict[str, Any]]:
    """Return the entries of `.eval_results/*.yaml`, or why a file is not valid."""
    answer: list[dict[str, Any]] = []
    for name, blob in sorted(files.items()):
        if name.startswith(".eval_results/") and name.endswith(".yaml"):
            try:
                entries = yaml.safe_load(blob.content)
                parse_eval_result_entries(entries)
                answer += [{"filename": name, "data": entry} for entry in entries]
            except (KeyError, TypeError, ValueError) as error:
                answer.append({"filename": name, "error": str(error)})
    return answer


async def every(call: Call) -> Response:
    owner = call.request.query_params.get("owner")
    found = [item for item in call.hub.collections.values() if owner in (None, item["owner"]["name"])]
    found = [item | {"items": item["items"][:_LISTED_ITEMS]} for item in found if _visible(call, item)]
    return JSONResponse([{key: item[key] for key in item if key != "position"} for item in found])


async def one(call: Call, slug: str) -> Response:
    return JSONResponse(_get(call, slug))


async def create(call: Call) -> Response:
    body = await call.request.json()
    call.may_write(owner := body["namespace"])
    slug = f"{owner}/{body['title'].lower().replace(' ', '-')}-{len(call.hub.collections):024x}"
    for collection in call.hub.collections.values():
        if (collection["owner"]["name"], collection["title"]) == (owner, body["title"]):
            return JSONResponse({"error": "this collection exists", "slug": collection["slug"]}, 409)
    new = {"slug": slug, "owner": {"name": owner, "type": "org"}, "title": body["title"], "items": []}
    new["lastUpdated"] = "2025-01-01T00:00:00.000Z"
    new |= {"private": body["private"], "position": 0, "theme": "green", "upvotes": 0}
    new["description"] = _at_most(body.get("description"), 150)
    call.hub.collections[slug] = new
    return JSONResponse(new)


async def change(call: Call, slug: str) -> Response:
    collection, body = _writable(call, slug), await call.request.json()
    _at_most(body.get("description"), 150)
    collection |= body
    return JSONResponse({"data": collection})


async def add_item(call: Call, slug: str) -> Response:
    collection, body = _writable(call, slug), await call.request.json()
    item = body["item"]
    call.readable(item["id"])
    if item["id"] in {present["id"] for present in collection["items"]}:
        raise HubFault(409, "the item is in the collection already")
    note = {"text": _at_most(body.get("note"), 500)}
    collection["items"].append({"_id": f"i{len(collection['items'])}", **item, "position": 0, "note": note})
    return JSONResponse(collection)


async def change_item(call: Call, slug: str, item: str) -> Response:
    collection, body = _writable(call, slug), await call.request.json()
    (found,) = [present for present in collection["items"] if present["_id"] == item]
    found["note"] = {"text": _at_most(body["note"], 500)}
    return JSONResponse({})


def _at_most(text: str | None, length: int) -> str | None:
    if text is not None and len(text) > length:
        raise HubFault(400, f"too long: {len(text)} characters of {length}")
    return text


def _visible(call: Call, collection: dict[str, Any]) -> bool:
    return not collection["private"] or call.member(collection["owner"]["name"])


def _get(call: Call, slug: str) -> dict[str, Any]:
    collection = call.hub.collections.get(slug)
    if collection is None or not _visible(call, collection):
        raise HubFault(404, "Collection not found")
    return collection


def _writable(call: Call, slug: str) -> dict[str, Any]:
    call.may_write(_get(call, slug)["owner"]["name"])
    return _get(call, slug)


_SLUG = "/api/collections/(?P<slug>[^/]+/[^/]+)"
ROUTES = (
    ("GET", "/api/collections", every),
    ("POST", "/api/collections", create),
    ("GET", _SLUG, one),
    ("PATCH", _SLUG, change),
    ("POST", f"{_SLUG}/items", add_item),
    ("PATCH", f"{_SLUG}/items/(?P<item>[^/]+)", change_item),
)
