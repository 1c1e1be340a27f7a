"""Everything by which bytes leave or enter the machine: publishing a folder of weights, and fetching published files.

A publishable folder is laid out as timm's repositories on the Hugging Face Hub are. Of whatever else lies in it
(checkpoints, logs, curves) nothing is ever sent. Publishing is here, fetching in `_fetching`, the client they share in
`_hub_client`.
"""

from __future__ import annotations

import logging
import shlex
import shutil
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, but not re-exported by its type hints
    build_hf_headers,
    get_session,
    hf_raise_for_status,
)

from ssia_zoo.errors import ConfigError, HubError, one_line, without_credentials
from ssia_zoo.hub.client import hub_api, require_token
from ssia_zoo.hub.errors import failure_reason
from ssia_zoo.hub.folder import PUBLISHED_FILES, check_extra, check_folder, folder_argument

_logger = logging.getLogger("ssia_zoo.hub")
_SNAPSHOT_PREFIX = ".push-"
_ACCESS_TIMEOUT = 10.0  # seconds; the client itself would wait without end on a Hub that does not answer


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
) -> str:
    """Check a folder and push its published files to the Hub in one commit; the repository is created if need be.

    Args:
        folder: The publishable folder; it is only read.
        repo_id: The repository, as ``org/name``.
        private: Create the repository as a private one; a repository that is public already is then refused.
        token: Access token; by default the one of ``HF_TOKEN`` or ``hf auth login``.
        endpoint: Address of the Hub; by default ``HF_ENDPOINT`` or huggingface.co.
        message: The commit's title.
        repeat: Command that the message of a failure names; by default the one that repeats this push.
        extra: Files beyond the published ones, of those that `ssia_zoo.export.onnx.add_onnx` adds.

    Returns:
        The commit's address.

    Raises:
        WeightError: If the folder is not fit to be published.
        HubError: If the push fails; the message ends with the command that repeats it.
    """
    folder = Path(folder)
    check_folder(folder)
    check_extra(folder, extra)
    repeat = repeat or repeat_command(folder, repo_id, private)
    hub: dict[str, Any] = {"private": private, "token": token, "endpoint": endpoint}
    return _upload(folder, repo_id, **hub, message=message, repeat=repeat, extra=extra)


def publish_to_folder(folder: Path, destination: Path) -> Path:
    """Check a folder and copy its published files to a new folder, laid out as the Hub repository would be.

    Nothing half-written stays: the copy takes its name once it is whole.

    Raises:
        WeightError: If the folder is not fit to be published.
        ConfigError: If the destination exists and is not empty, or cannot be written.
    """
    folder, destination = Path(folder), Path(destination)
    check_folder(folder)
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise ConfigError(f"{destination} exists and is not an empty folder; name a new one")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=destination.parent, prefix=f".{destination.name}-") as room:
            staged = Path(room) / "repo"
            staged.mkdir()
            _copy_published(folder, staged)
            if destination.is_dir():
                destination.rmdir()
            staged.rename(destination)
    except OSError as error:
        raise ConfigError(
            f"cannot write {destination} ({one_line(error)}); free space or name another folder"
        ) from error
    return destination


def check_access(
    repo_id: str,
    *,
    folder: Path,
    private: bool = False,
    token: str | None = None,
    endpoint: str | None = None,
) -> str | None:
    """Ask the Hub, before a long training, whether a later push can succeed; never raises.

    Args:
        repo_id: The repository, as ``org/name``.
        folder: What will be pushed, for the command that repeats the push.
        private: As in `publish`.
        token: As in `publish`.
        endpoint: As in `publish`.

    Returns:
        None if the token may write to the repository's namespace, and the repository, if there is one, is private where
        that was asked; else a line that says why not.
    """
    try:
        token = require_token(repo_id, token)
        api = hub_api(token, endpoint)
        url = f"{api.endpoint}/api/whoami-v2"
        answer = get_session().get(url, headers=build_hf_headers(token=token), timeout=_ACCESS_TIMEOUT)
        hf_raise_for_status(answer)
        problem = _missing_right(repo_id.split("/")[0], answer.json())
        if problem is None and private and _is_public(api, repo_id):
            problem = f"{repo_id} exists and is public, asked was a private one"
    except Exception as error:
        problem = failure_reason(error, repo_id, token=token, endpoint=endpoint)
    if problem is None:
        return None
    repeat = repeat_command(folder, repo_id, private)
    return f"a push to {repo_id} would fail: {problem}; training can go on, and push afterwards with: {repeat}"


def _is_public(api: HfApi, repo_id: str) -> bool:
    try:
        return not api.model_info(repo_id, timeout=_ACCESS_TIMEOUT).private
    except RepositoryNotFoundError:
        return False


def _missing_right(namespace: str, account: dict[str, Any]) -> str | None:
    """What `whoami` says against writing to a namespace; fine-grained tokens get the benefit of the doubt."""
    roles = {account["name"].lower(): "admin"}
    roles |= {org["name"].lower(): org.get("roleInOrg") or "write" for org in account.get("orgs", [])}
    if namespace.lower() not in roles:
        return f"{account['name']} has no right to the namespace {namespace!r}; it may write to: {', '.join(roles)}"
    if account.get("auth", {}).get("accessToken", {}).get("role") == "read":
        return "the token may only read; make one with the write role"
    if roles[namespace.lower()] == "read":
        return f"{account['name']} may only read in the namespace {namespace!r}; ask its owners for the write role"
    return None


def _upload(
    source: Path,
    repo_id: str,
    *,
    private: bool,
    token: str | None,
    endpoint: str | None,
    message: str,
    repeat: str,
    extra: Sequence[str] = (),
) -> str:
    """Push the published files of `source`, which has been checked; `repeat` ends the message of a failure."""
    try:
        token = require_token(repo_id, token)
        api = hub_api(token, endpoint)
        api.create_repo(repo_id, private=private, exist_ok=True)
        if private and _is_public(api, repo_id):
            raise ValueError(f"{repo_id} exists and is public, asked was a private one: choose another name")
        names = (*PUBLISHED_FILES, *extra)
        files = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=source / name) for name in names]
        return without_credentials(str(api.create_commit(repo_id, files, commit_message=message).commit_url))
    except Exception as error:
        reason = failure_reason(error, repo_id, token=token, endpoint=endpoint)
    # Raised here, without the client's error behind it: its text may quote request headers, and so the token.
    raise HubError(f"could not push to {repo_id}: {reason}; repeat with: {repeat}")


def repeat_command(folder: Path | str, repo_id: str, private: bool) -> str:
    """The command that publishes a folder."""
    return f"ssia-zoo publish {folder_argument(folder)} {shlex.quote(repo_id)}" + (" --private" if private else "")


def _copy_published(source: Path, destination: Path) -> None:
    for name in PUBLISHED_FILES:
        shutil.copyfile(source / name, destination / name)


class BackgroundPusher:
    """Pushes a folder's published files beside a running training, which neither waits for it nor fails with it.

    One upload runs at a time; of the requests that come meanwhile, the newest alone is kept. The upload's thread does
    not keep the process alive: `close` waits for it.

    Args:
        folder: The publishable folder; copies of it wait in hidden folders inside it and are removed after.
        repo_id: The repository, as ``org/name``.
        private: As in `publish`.
        token: As in `publish`.
        endpoint: As in `publish`.
    """

    def __init__(
        self,
        folder: Path,
        repo_id: str,
        *,
        private: bool = False,
        token: str | None = None,
        endpoint: str | None = None,
    ) -> None:
        self._folder = Path(folder)
        self._repo_id = repo_id
        self._hub: dict[str, Any] = {"private": private, "token": token, "endpoint": endpoint}
        self._repeat = repeat_command(self._folder, repo_id, private)
        self._lock = threading.Lock()  # guards the three below
        self._waiting: tuple[Path, str] | None = None
        self._thread: threading.Thread | None = None
        self._failures: list[str] = []
        for leftover in self._folder.glob(f"{_SNAPSHOT_PREFIX}*"):  # of a run that was killed
            shutil.rmtree(leftover, ignore_errors=True)

    def push(self, message: str) -> None:
        """Copy the files as they are now and upload them in the background; a failure is logged, never raised."""
        try:
            snapshot = self._snapshot()
        except Exception as error:
            self._fail(f"could not push to {self._repo_id}: {one_line(error)}; repeat with: {self._repeat}")
            return
        with self._lock:
            outdated, self._waiting = self._waiting, (snapshot, message)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="ssia-zoo-push", daemon=True)
                self._thread.start()
        if outdated is not None:
            shutil.rmtree(outdated[0], ignore_errors=True)

    def close(self, timeout: float | None = None) -> list[str]:
        """Wait for the uploads that are asked for.

        Args:
            timeout: Seconds to wait at most; by default until the client succeeds or gives up.

        Returns:
            A line for each push that failed so far, and one for an upload that is still running.
        """
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(timeout)
            if thread.is_alive():
                self._fail(f"the push to {self._repo_id} still runs after {timeout} s; repeat with: {self._repeat}")
        with self._lock:
            return list(self._failures)

    def _snapshot(self) -> Path:
        # Checked here and not in the thread: building the vanilla model there would meddle with the training's
        # random numbers.
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
                _upload(snapshot, self._repo_id, **self._hub, message=message, repeat=self._repeat)
            except HubError as error:
                self._fail(str(error))
            finally:
                shutil.rmtree(snapshot, ignore_errors=True)

    def _fail(self, text: str) -> None:
        _logger.warning(text)
        with self._lock:
            self._failures.append(text)
