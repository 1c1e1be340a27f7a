"""Make the Hub's client, and check token and repository id before it uses them."""

from __future__ import annotations

import re

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, not in its type hints

from ssia_zoo.version import __version__

ACCESS_TIMEOUT = 10.0
"""Of questions about access, seconds; the client's own requests have none."""


def hub_api(token: str | None, endpoint: str | None) -> HfApi:
    """Make a client."""
    return HfApi(endpoint=endpoint, token=token, library_name="ssia-zoo", library_version=__version__)


def clean_token(token: str | None) -> str | None:
    """Return a token without surrounding white space, such as a file's line end; None if nothing is left.

    Raises:
        ValueError: If this token, or the one that the client would use by default, has characters no token can have.
    """
    token = (token or "").strip() or None
    for candidate in (token, get_token()):
        if candidate is not None and not re.fullmatch(r"[!-~]+", candidate):
            # The HTTP library would refuse it with an error that quotes it.
            raise ValueError("the token contains invalid characters; log in again with `hf auth login`")
    return token


def check_repo_id(repo_id: str) -> None:
    """Check that a repository id is ``org/name``.

    Raises:
        HFValidationError: If it is not.
    """
    validate_repo_id(repo_id)
    if "/" not in repo_id:  # the client would assume the user's namespace
        raise HFValidationError(repo_id)


def require_token(repo_id: str, token: str | None) -> str | None:
    """Check a repository id, and return the clean token to write to it with.

    Raises:
        HFValidationError: If the id is not ``org/name``.
        LocalTokenNotFoundError: If there is no token, neither this one nor a saved one.
    """
    check_repo_id(repo_id)
    token = clean_token(token)
    if token is None and get_token() is None:
        raise LocalTokenNotFoundError("no token")
    return token


def is_public(api: HfApi, repo_id: str, repo_type: str = "model") -> bool:
    """Return whether a repository exists and anyone can read it; it must answer within ten seconds."""
    try:
        return not api.repo_info(repo_id, repo_type=repo_type, timeout=ACCESS_TIMEOUT).private
    except RepositoryNotFoundError:
        return False
