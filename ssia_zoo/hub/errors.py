"""Turn errors of the Hub's client into one line that says what to do and contains no token."""

from __future__ import annotations

import re
from collections.abc import Iterator
from json import JSONDecodeError

from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ssia_zoo.errors import one_line, without_credentials

_LOGIN = "log in with `hf auth login` or set HF_TOKEN"


def failure_reason(error: BaseException, repo_id: str, *, token: str | None, endpoint: str | None) -> str:
    """Return why the client failed and what to do, in one line without tokens and passwords."""
    configured = (endpoint or constants.ENDPOINT).rstrip("/")
    credentials, _, host = configured.rpartition("@")
    credentials = credentials.rpartition("//")[2]  # not parsed further: the address may be malformed
    resolved = configured.replace(f"{credentials}@", "") if host != configured else configured
    # The client wraps the informative error (no connection, offline mode) in others.
    reasons = (_explain(link, repo_id, resolved) for link in _causes(error))
    text = next((reason for reason in reasons if reason), f"{type(error).__name__}: {one_line(error)}")
    if credentials:
        text = text.replace(f"{credentials}@", "")
    try:
        secrets = {token, get_token()}
    except Exception:  # a keyless login failed: there is no token to hide
        secrets = {token}
    for secret in secrets:
        if secret and secret.strip():
            text = text.replace(secret.strip(), "<token>")
    return without_credentials(re.sub(r"hf_[A-Za-z0-9]{30,}|(?<=Bearer )[^'\"]+", "<token>", text))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _explain(error: BaseException, repo_id: str, endpoint: str) -> str | None:
    """Return the reason that one error of the client gives, or None if it gives none."""
    if isinstance(error, HFValidationError):
        return f"{repo_id!r} is not a repository id; expected org/name of letters, digits, '-', '_' and '.'"
    if isinstance(error, LocalTokenNotFoundError):
        return f"no token found; {_LOGIN}"
    if isinstance(error, OfflineModeIsEnabled):
        return "offline mode is on and the file is not in the cache; unset HF_HUB_OFFLINE"
    if isinstance(error, HfHubHTTPError):
        return _explain_answer(error, repo_id, endpoint)
    if isinstance(error, LocalEntryNotFoundError):
        return None
    # hf_xet raises the class itself; sockets and the HTTP library raise subclasses and classes of their own.
    if type(error) is ConnectionError:
        return _explain_xet(one_line(error), endpoint)
    # The client's HTTP library differs between its releases, so match its errors by their module.
    if type(error).__module__.startswith(("httpx", "requests")) or isinstance(error, ConnectionError | TimeoutError):
        return f"cannot reach the Hub at {endpoint}, or lost the connection ({one_line(error)}); check the network"
    if isinstance(error, JSONDecodeError):
        return f"{endpoint} does not answer like a Hub; check HF_ENDPOINT, and whether the network needs a login"
    if isinstance(error, OSError | ValueError):
        return one_line(error)
    return None


def _explain_xet(reason: str, endpoint: str) -> str:
    if "404" in reason and re.search(r"/xet-(read|write)-token/", reason):
        return f"the Hub at {endpoint} has no Xet storage; set HF_HUB_DISABLE_XET=1 to upload without it"
    return (
        f"cannot reach the Xet storage of the Hub at {endpoint} ({reason}); check the network, "
        "or set HF_HUB_DISABLE_XET=1 to do without it"
    )


def _explain_answer(error: HfHubHTTPError, repo_id: str, endpoint: str) -> str:
    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        return f"{repo_id} is gated; accept its terms on its web page, and {_LOGIN}"
    if isinstance(error, RepositoryNotFoundError):
        return f"{repo_id} does not exist, or is private and the token has no access; check the name, or {_LOGIN}"
    if isinstance(error, RevisionNotFoundError):
        return f"{repo_id} has no such revision"
    if isinstance(error, EntryNotFoundError):
        return f"{repo_id} has no such file at this revision"
    if status == 401:
        return f"the token is not valid; {_LOGIN}"
    if status == 403:
        return f"the token cannot write to {repo_id}; use one with the write role for {repo_id.split('/')[0]!r}"
    if status == 412:
        return f"{repo_id} was changed on the Hub during the upload, and nothing was replaced"
    return f"the Hub at {endpoint} answered {status} ({error.server_message or one_line(error)})"
