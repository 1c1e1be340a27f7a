"""Upload the files of a Space to the Hub."""

from __future__ import annotations

import logging
from pathlib import Path

from ssia_zoo.errors import HubError, without_credentials
from ssia_zoo.hub.client import hub_api, is_public, require_token
from ssia_zoo.hub.errors import failure_reason
from ssia_zoo.hub.existing import stays_private
from ssia_zoo.hub.files import some

_logger = logging.getLogger("ssia_zoo.hub")

_REPLACED = ["ssia_zoo/*", "models/*"]
"""Files of an earlier upload that are deleted if the new one lacks them."""
_PACKAGE = "ssia_zoo/__init__.py"
"""By which an earlier upload is recognised."""
_OF_THE_HUB = {".gitattributes", "README.md"}
"""Files of a Space that the Hub has just created."""


def publish_space(
    folder: Path,
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    endpoint: str | None = None,
    repeat: str | None = None,
    replace: bool = False,
) -> str:
    """Upload a folder as a Space in one commit; create the Space if it does not exist.

    Args:
        folder: Written by `ssia_zoo.app.space.write_space`.
        repo_id: The Space, as ``org/name``.
        private: Whether to create the Space as a private one; an existing public one is then refused, and an existing
            private one always stays private; the log says so.
        token: As in `ssia_zoo.hub.publish`.
        endpoint: As in `ssia_zoo.hub.publish`.
        repeat: As in `ssia_zoo.hub.publish`.
        replace: Whether the Space may be another one than this package's, whose files are then replaced.

    Returns:
        The commit's address.

    Raises:
        HubError: If the Space is not of this package, or the upload fails.
    """
    try:
        token = require_token(repo_id, token)
        api = hub_api(token, endpoint)
        api.create_repo(repo_id, repo_type="space", space_sdk="gradio", private=private, exist_ok=True)
        public = is_public(api, repo_id, "space")
        if private and public:
            raise ValueError(f"{repo_id} exists and is public, but a private Space is required: choose another name")
        there = {*api.list_repo_files(repo_id, repo_type="space")}
        if not replace and _PACKAGE not in there and (others := there - _OF_THE_HUB):
            raise ValueError(
                f"{repo_id} is another Space ({some(others)}); choose another name, or publish with `replace`"
            )
        done = api.upload_folder(
            repo_id=repo_id,
            repo_type="space",
            folder_path=folder,
            commit_message="Upload the page with ssia-zoo",
            delete_patterns=_REPLACED,
        )
        if not private and not public:
            _logger.warning("%s", stays_private(f"the Space {repo_id}"))
        return without_credentials(str(done.commit_url))
    except Exception as error:
        reason = failure_reason(error, repo_id, token=token, endpoint=endpoint)
    # Not chained: the client's error may quote request headers, and so the token.
    raise HubError(f"could not push to the Space {repo_id}: {reason}" + (f"; repeat with: {repeat}" if repeat else ""))
