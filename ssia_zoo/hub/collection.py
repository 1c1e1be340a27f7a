"""Keep a collection of models on the Hub up to date."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from huggingface_hub import Collection, HfApi
from huggingface_hub.errors import RepositoryNotFoundError

from ssia_zoo.errors import HubError, without_credentials
from ssia_zoo.hub.client import hub_api, require_token
from ssia_zoo.hub.errors import failure_reason
from ssia_zoo.hub.existing import stays_private

_logger = logging.getLogger("ssia_zoo.hub")


def update_collection(
    owner: str,
    title: str,
    models: Mapping[str, str],
    *,
    description: str,
    private: bool = False,
    token: str | None = None,
    endpoint: str | None = None,
    repeat: str | None = None,
) -> str:
    """Create a collection, or bring it up to date; items that others added stay.

    The Hub keeps no history of collections, so the log quotes the description and notes that are replaced.

    Args:
        owner: User or organization; its collection with this title is updated, if there is one.
        title: The collection's title.
        models: Notes (at most 500 characters) by repository.
        description: At most 150 characters.
        private: Whether the collection must be private; a private one never becomes public. The log says what it stays
            or becomes, if that was not asked for.
        token: As in `ssia_zoo.hub.publish`.
        endpoint: As in `ssia_zoo.hub.publish`.
        repeat: How to repeat the call, such as a command; errors end with it.

    Returns:
        The collection's address.

    Raises:
        HubError: If it cannot be updated.
    """
    try:
        token = require_token(f"{owner}/x", token)
        api = hub_api(token, endpoint)
        found = _find(api, owner, title)
        if found is None:
            found = api.create_collection(
                title, namespace=owner, description=description, private=private, exists_ok=True
            )
        if found.description != description or (private and not found.private):
            api.update_collection_metadata(found.slug, description=description, private=private or None)
            _say_replaced(f"the description of the collection {title!r}", found.description, description)
        if found.private and not private:
            _logger.warning("%s", stays_private(f"the collection {title!r}"))
        if private and not found.private:
            _logger.warning("the collection %r was public and is private now", title)
        _update_items(api, found, models)
        return without_credentials(found.url)
    except Exception as error:
        reason = failure_reason(error, owner, token=token, endpoint=endpoint)
    repetition = f"; repeat with: {repeat}" if repeat else ""
    # Not chained: the client's error may quote request headers, and so the token.
    raise HubError(f"could not update the collection {title!r} of {owner}: {reason}{repetition}")


def _find(api: HfApi, owner: str, title: str) -> Collection | None:
    for collection in api.list_collections(owner=owner):
        # Not by `collection.owner`: it is what the Hub answers, which may be an object.
        if collection.title == title and collection.slug.split("/")[0].lower() == owner.lower():
            return api.get_collection(collection.slug)  # with all items, of which the list has only the first
    return None


def _update_items(api: HfApi, collection: Collection, models: Mapping[str, str]) -> None:
    present = {item.item_id: item for item in collection.items if item.item_type == "model"}
    for repo_id, note in models.items():
        if repo_id not in present:
            try:
                api.add_collection_item(collection.slug, repo_id, "model", note=note, exists_ok=True)
            except RepositoryNotFoundError:
                raise ValueError(f"{repo_id} does not exist, or is private and the token has no access") from None
        elif present[repo_id].note != note:
            api.update_collection_item(collection.slug, present[repo_id].item_object_id, note=note)
            _say_replaced(f"the note of {repo_id} in the collection {collection.title!r}", present[repo_id].note, note)


def _say_replaced(what: str, before: str | None, after: str) -> None:
    if before and before != after:
        _logger.warning("%s is replaced; it was: %s", what, " ".join(before.split()))
