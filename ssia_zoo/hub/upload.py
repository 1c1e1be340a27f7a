"""Upload a publishable folder to the Hub, at once or in the background.

A publishable folder has the layout of timm's repositories on the Hub. Other files in it (checkpoints, logs, curves) are
never uploaded.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, but not re-exported by its type hints
    build_hf_headers,
    get_session,
    hf_raise_for_status,
)

from ssia_zoo.errors import ConfigError, HubError, one_line, without_credentials
from ssia_zoo.hub.client import ACCESS_TIMEOUT, hub_api, require_token
from ssia_zoo.hub.errors import failure_reason
from ssia_zoo.hub.existing import Existing, look_at, merge_cards, other_model, stays_private
from ssia_zoo.hub.files import CONFIG
from ssia_zoo.hub.folder import (
    CARD,
    EXTRA_FILES,
    PUBLISHED_FILES,
    STATEMENT,
    UNSIGNED_FILES,
    addressed_card,
    check_extra,
    check_folder,
)

_logger = logging.getLogger("ssia_zoo.hub")
_SNAPSHOT_PREFIX = ".push-"
_OF_A_MODEL = (*EXTRA_FILES, "preprocessor_config.json")
"""Files that may no longer fit the model; by the last, transformers would prepare images."""


# --- Publishing -------------------------------------------------------------------------------------------------------


def publish(
    folder: Path,
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    endpoint: str | None = None,
    message: str = "Upload weights with ssia-zoo",
    repeat: str | None = None,
    extra: Sequence[str] = (),
    replace: bool = False,
) -> str:
    """Check a folder and upload its published files in one commit; create the repository if it does not exist.

    Metadata that only the repository's README.md has, such as a licence or a gating prompt, is kept; the log names it.

    Args:
        folder: The publishable folder; it is only read.
        repo_id: The repository, as ``org/name``.
        private: Whether to create the repository as a private one; an existing public repository is then refused. An
            existing private one stays private; the log says so.
        token: Access token; by default that of ``HF_TOKEN`` or ``hf auth login``.
        endpoint: Address of the Hub; by default ``HF_ENDPOINT`` or huggingface.co.
        message: The commit's title.
        repeat: How to repeat the upload, such as a command; errors end with it.
        extra: Further files to upload, out of `ssia_zoo.hub.folder.EXTRA_FILES`.
        replace: Whether the repository may hold another kind of model, which is then replaced.

    Returns:
        The commit's address.

    Raises:
        WeightError: If the folder is not publishable.
        HubError: If the repository holds another kind of model, or changes meanwhile, or the upload fails.
    """
    folder = Path(folder)
    check_folder(folder)
    check_extra(folder, extra)
    hub: dict[str, Any] = {"private": private, "token": token, "endpoint": endpoint}
    return _upload(folder, repo_id, **hub, message=message, repeat=repeat, extra=extra, replace=replace, said=set())


def prepare_card(
    folder: Path,
    repo_id: str,
    *,
    token: str | None = None,
    endpoint: str | None = None,
    repeat: str | None = None,
) -> None:
    """Write a folder's README.md as `publish` would upload it, to sign it before.

    Args:
        folder: The publishable folder.
        repo_id: The repository it will be published to.
        token: As in `publish`.
        endpoint: As in `publish`.
        repeat: As in `publish`.

    Raises:
        HubError: If the Hub does not answer.
    """
    card = Path(folder) / CARD
    try:
        token = require_token(repo_id, token)
        there = look_at(hub_api(token, endpoint), repo_id)
        text, lines = merge_cards(addressed_card(card.read_text(encoding="utf-8"), repo_id), there)
    except Exception as error:
        reason = failure_reason(error, repo_id, token=token, endpoint=endpoint)
    else:
        card.write_text(text, encoding="utf-8")
        _say(lines, set())
        return
    # Not chained: the client's error may quote request headers, and so the token.
    raise HubError(f"could not push to {repo_id}: {reason}{_repetition(repeat)}")


def publish_to_folder(folder: Path, destination: Path, *, extra: Sequence[str] = ()) -> Path:
    """Check a folder and copy its published files to a new folder, with the layout of the Hub repository.

    The destination appears once the copy is complete.

    Args:
        folder: The publishable folder; it is only read.
        destination: New or empty folder.
        extra: As in `publish`.

    Raises:
        WeightError: If the folder is not publishable.
        ConfigError: If the destination exists and is not empty, or cannot be written.
    """
    folder, destination = Path(folder), Path(destination)
    check_folder(folder)
    check_extra(folder, extra)
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise ConfigError(f"{destination} exists and is not an empty folder; choose another one")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=destination.parent, prefix=f".{destination.name}-") as staging:
            staged = Path(staging) / "repo"
            staged.mkdir()
            _copy_published(folder, staged, extra)
            if destination.is_dir():
                destination.rmdir()
            staged.rename(destination)
    except OSError as error:
        raise ConfigError(
            f"cannot write {destination} ({one_line(error)}); free space or choose another folder"
        ) from error
    return destination


def check_access(
    repo_id: str, *, private: bool = False, token: str | None = None, endpoint: str | None = None
) -> str | None:
    """Ask the Hub whether a later upload of a training's result can succeed; never raises.

    Args:
        repo_id: The repository, as ``org/name``.
        private: As in `publish`.
        token: As in `publish`.
        endpoint: As in `publish`.

    Returns:
        None if the token can write to the repository's namespace, and an existing repository is private where that is
        required and holds no model that training would not replace; else a line that says why not.
    """
    try:
        token = require_token(repo_id, token)
        api = hub_api(token, endpoint)
        url = f"{api.endpoint}/api/whoami-v2"
        answer = get_session().get(url, headers=build_hf_headers(token=token), timeout=ACCESS_TIMEOUT)
        hf_raise_for_status(answer)
        problem = _missing_right(repo_id.split("/")[0], answer.json())
        if problem is None:
            problem = _obstacle(look_at(api, repo_id), private, {"ssia": {}})
    except Exception as error:
        problem = failure_reason(error, repo_id, token=token, endpoint=endpoint)
    return problem and f"a push to {repo_id} would fail: {problem}"


def _missing_right(namespace: str, account: dict[str, Any]) -> str | None:
    """Return why an account, as `whoami` describes it, cannot write to a namespace.

    Permissions of fine-grained tokens are not checked.
    """
    roles = {account["name"].lower(): "admin"}
    roles |= {org["name"].lower(): org.get("roleInOrg") or "write" for org in account.get("orgs", [])}
    if namespace.lower() not in roles:
        return f"{account['name']} cannot write to the namespace {namespace!r}, only to: {', '.join(roles)}"
    if account.get("auth", {}).get("accessToken", {}).get("role") == "read":
        return "the token is read-only; create one with the write role"
    if roles[namespace.lower()] == "read":
        return f"{account['name']} can only read in the namespace {namespace!r}; ask its owners for the write role"
    return None


def _obstacle(there: Existing, private: bool, config: dict[str, Any], *, replace: bool = False) -> str | None:
    """Return why a model must not be uploaded to an existing repository; `config` as in `other_model`."""
    if private and there.public:
        return f"{there.repo_id} exists and is public, but a private repository is required: choose another name"
    if not replace and (other := other_model(there, config)):
        return f"{there.repo_id} holds another model ({other}); choose another name, or publish with `replace`"
    return None


def _upload(
    source: Path,
    repo_id: str,
    *,
    private: bool,
    token: str | None,
    endpoint: str | None,
    message: str,
    repeat: str | None,
    extra: Sequence[str] = (),
    replace: bool = False,
    said: set[str],
) -> str:
    """Upload the published files of `source`, which has been checked; log what stays and what is replaced, once."""
    try:
        token = require_token(repo_id, token)
        api = hub_api(token, endpoint)
        api.create_repo(repo_id, private=private, exist_ok=True)
        there = look_at(api, repo_id)
        config = json.loads((source / CONFIG).read_text(encoding="utf-8"))
        if problem := _obstacle(there, private, config, replace=replace):
            raise ValueError(problem)
        names = (*PUBLISHED_FILES, *extra)
        others = there.files - {*names}
        if STATEMENT in extra and (unsigned := sorted(name for name in others if name not in UNSIGNED_FILES)):
            raise ValueError(
                f"{repo_id} also holds {', '.join(unsigned[:3])}, which the signed statement does not cover, so "
                "readers' checks would fail: delete what it holds besides the model, or choose another repository"
            )
        addressed = addressed_card((source / CARD).read_text(encoding="utf-8"), repo_id)
        card, lines = merge_cards(addressed, there)
        if STATEMENT in extra and card != addressed:
            raise ValueError(f"{lines[0]}, which the signed statement does not cover: call prepare_card before signing")
        files = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=source / name) for name in names]
        files[names.index(CARD)] = CommitOperationAdd(path_in_repo=CARD, path_or_fileobj=card.encode())
        # The Hub refuses the commit if the repository has changed since `look_at`.
        done = api.create_commit(repo_id, files, commit_message=message, parent_commit=there.revision or None)
        url = without_credentials(str(done.commit_url))
        if not private and there.revision and not there.public:
            lines.append(stays_private(repo_id))
        if stay := sorted({*_OF_A_MODEL} & others):
            lines.append(
                f"{repo_id} still has {', '.join(stay)}, already there; if the model has changed, add new ones or "
                "delete them"
            )
        _say(lines, said)
        return url
    except Exception as error:
        reason = failure_reason(error, repo_id, token=token, endpoint=endpoint)
    # Not chained: the client's error may quote request headers, and so the token.
    raise HubError(f"could not push to {repo_id}: {reason}{_repetition(repeat)}")


def _say(lines: Sequence[str], said: set[str]) -> None:
    """Log lines that have not been logged for this repository before."""
    for line in dict.fromkeys(lines):
        if line not in said:
            said.add(line)
            _logger.warning("%s", line)


def _repetition(repeat: str | None) -> str:
    return f"; repeat with: {repeat}" if repeat else ""


def _copy_published(source: Path, destination: Path, extra: Sequence[str] = ()) -> None:
    for name in (*PUBLISHED_FILES, *extra):
        (destination / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, destination / name)


class BackgroundPusher:
    """Upload a folder's published files while a training runs; failures are logged and do not stop the training.

    One upload runs at a time. If several are requested meanwhile, only the newest is kept. The upload runs in a daemon
    thread; `close` waits for it.

    Args:
        folder: The publishable folder; copies to upload are kept in hidden folders inside it and removed afterwards.
        repo_id: The repository, as ``org/name``.
        private: As in `publish`.
        token: As in `publish`.
        endpoint: As in `publish`.
        repeat: As in `publish`.
    """

    def __init__(
        self,
        folder: Path,
        repo_id: str,
        *,
        private: bool = False,
        token: str | None = None,
        endpoint: str | None = None,
        repeat: str | None = None,
    ) -> None:
        self._folder = Path(folder)
        self._repo_id = repo_id
        self._hub: dict[str, Any] = {"private": private, "token": token, "endpoint": endpoint, "repeat": repeat}
        self._repetition = _repetition(repeat)
        self._said: set[str] = set()  # of the uploading thread
        self._lock = threading.Lock()  # guards the next three
        self._waiting: tuple[Path, str] | None = None
        self._thread: threading.Thread | None = None
        self._failures: list[str] = []
        for leftover in self._folder.glob(f"{_SNAPSHOT_PREFIX}*"):  # of a killed run
            shutil.rmtree(leftover, ignore_errors=True)

    def push(self, message: str) -> None:
        """Copy the files as they are now and upload them in the background; failures are logged, not raised."""
        try:
            snapshot = self._snapshot()
        except Exception as error:
            self._fail(f"could not push to {self._repo_id}: {one_line(error)}{self._repetition}")
            return
        with self._lock:
            outdated, self._waiting = self._waiting, (snapshot, message)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="ssia-zoo-push", daemon=True)
                self._thread.start()
        if outdated is not None:
            shutil.rmtree(outdated[0], ignore_errors=True)

    def close(self, timeout: float | None = None) -> list[str]:
        """Wait for the requested uploads.

        Args:
            timeout: Longest time to wait, in seconds; no limit if None.

        Returns:
            One line for each failed upload, and one if an upload is still running.
        """
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(timeout)
            if thread.is_alive():
                self._fail(f"the push to {self._repo_id} is still running after {timeout} s{self._repetition}")
        with self._lock:
            return list(self._failures)

    def _snapshot(self) -> Path:
        # Checked here, not in the thread: building the vanilla model there would disturb the training's random state.
        check_folder(self._folder)
        snapshot = Path(tempfile.mkdtemp(dir=self._folder, prefix=_SNAPSHOT_PREFIX))
        try:
            _copy_published(self._folder, snapshot)
        except OSError:
            shutil.rmtree(snapshot, ignore_errors=True)
            raise
        return snapshot

    def _work(self) -> None:
        while True:
            with self._lock:
                job, self._waiting = self._waiting, None
                if job is None:
                    self._thread = None
                    return
            snapshot, message = job
            try:
                _upload(snapshot, self._repo_id, **self._hub, message=message, said=self._said)
            except HubError as error:
                self._fail(str(error))
            finally:
                shutil.rmtree(snapshot, ignore_errors=True)

    def _fail(self, text: str) -> None:
        _logger.warning(text)
        with self._lock:
            self._failures.append(text)
