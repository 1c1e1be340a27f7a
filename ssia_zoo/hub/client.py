"""The Hub's client as this package uses it: with a clean token and a whole repository id."""

from __future__ import annotations

import re

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, not in its type hints

from ssia_zoo.version import __version__


def hub_api(token: str | None, endpoint: str | None) -> HfApi:
    """Make a client."""
    return HfApi(endpoint=endpoint, token=token, library_name="ssia-zoo", library_version=__version__)


def clean_token(token: str | None) -> str | None:
    """The token without the line end that a file or a shell left on it; an empty one is none."""
    token = (token or "").strip() or None
    for candidate in (token, get_token()):
        if candidate is not None and not re.fullmatch(r"[!-~]+", candidate):
            # Sent on, it would be refused by the HTTP library with an error that quotes it.
            raise ValueError("the token holds characters that no token has; log in anew with `hf auth login`")
    return token


def check_repo_id(repo_id: str) -> None:
    """Refuse what is not ``org/name``."""
    validate_repo_id(repo_id)
    if "/" not in repo_id:  # the client would guess the user's own namespace
        raise HFValidationError(repo_id)


def require_token(repo_id: str, token: str | None) -> str | None:
    """The clean token, for a repository that is to be written."""
    check_repo_id(repo_id)
    token = clean_token(token)
    if token is None and get_token() is None:
        raise LocalTokenNotFoundError("no token")
    return token
