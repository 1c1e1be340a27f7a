"""Everything by which bytes leave or enter the machine: publishing a folder of weights, and fetching a published file.

A publishable folder is laid out as timm's repositories on the Hugging Face Hub are. Of whatever else lies in it
(checkpoints, logs, curves) nothing is ever sent.
"""

from __future__ import annotations

import hashlib
import logging
import re
import shlex
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, but not re-exported by its type hints
    build_hf_headers,
    get_session,
    hf_raise_for_status,
    validate_repo_id,
)

from ssia_zoo._hub_errors import failure_reason, one_line
from ssia_zoo._publishable import PUBLISHED_FILES, check_folder
from ssia_zoo._version import __version__
from ssia_zoo.errors import ConfigError, HubError, WeightError

__all__ = [
    "PUBLISHED_FILES",
    "BackgroundPusher",
    "check_access",
    "check_folder",
    "fetch",
    "file_sha256",
    "publish",
    "publish_to_folder",
]

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
) -> str:
    """Check a folder and push its published files to the Hub in one commit; the repository is created if need be.

    Args:
        folder: The publishable folder; it is only read.
        repo_id: The repository, as ``org/name``.
        private: Create the repository as a private one; a repository that is public already is then refused.
        token: Access token; by default the one of ``HF_TOKEN`` or ``hf auth login``.
        endpoint: Address of the Hub; by default ``HF_ENDPOINT`` or huggingface.co.
        message: The commit's title.

    Returns:
        The commit's address.

    Raises:
        WeightError: If the folder is not fit to be published.
        HubError: If the push fails; the message ends with the command that repeats it.
    """
    folder = Path(folder)
    check_folder(folder)
    repeat = _repeat_command(folder, repo_id, private)
    return _upload(folder, repo_id, private=private, token=token, endpoint=endpoint, message=message, repeat=repeat)


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
    repo_id: str, *, private: bool = False, token: str | None = None, endpoint: str | None = None
) -> str | None:
    """Ask the Hub, before a long training, whether a later push can succeed; never raises.

    Returns:
        None if the token may write to the repository's namespace, else a line that says why it may not.
    """
    try:
        token = _require_token(repo_id, token)
        url = f"{_api(token, endpoint).endpoint}/api/whoami-v2"
        answer = get_session().get(url, headers=build_hf_headers(token=token), timeout=_ACCESS_TIMEOUT)
        hf_raise_for_status(answer)
        problem = _missing_right(repo_id.split("/")[0], answer.json())
    except Exception as error:
        problem = failure_reason(error, repo_id, token=token, endpoint=endpoint)
    if problem is None:
        return None
    repeat = _repeat_command(Path("FOLDER"), repo_id, private)
    return f"a push to {repo_id} would fail: {problem}; training can go on, and push afterwards with: {repeat}"


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
    source: Path, repo_id: str, *, private: bool, token: str | None, endpoint: str | None, message: str, repeat: str
) -> str:
    """Push the published files of `source`, which has been checked; `repeat` ends the message of a failure."""
    try:
        token = _require_token(repo_id, token)
        api = _api(token, endpoint)
        api.create_repo(repo_id, private=private, exist_ok=True)
        if private and not api.model_info(repo_id).private:
            raise ValueError(f"{repo_id} exists and is public, asked was a private one: choose another name")
        files = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=source / name) for name in PUBLISHED_FILES]
        return str(api.create_commit(repo_id, files, commit_message=message).commit_url)
    except Exception as error:
        reason = failure_reason(error, repo_id, token=token, endpoint=endpoint)
    # Raised here, without the client's error behind it: its text may quote request headers, and so the token.
    raise HubError(f"could not push to {repo_id}: {reason}; repeat with: {repeat}")


def _repeat_command(folder: Path, repo_id: str, private: bool) -> str:
    return f"ssia-zoo publish {shlex.quote(str(folder))} {shlex.quote(repo_id)}" + (" --private" if private else "")


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
        self._repeat = _repeat_command(self._folder, repo_id, private)
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


def _api(token: str | None, endpoint: str | None) -> HfApi:
    return HfApi(endpoint=endpoint, token=token, library_name="ssia-zoo", library_version=__version__)


def _clean(token: str | None) -> str | None:
    """The token without the line end that a file or a shell left on it; an empty one is none."""
    token = (token or "").strip() or None
    for candidate in (token, get_token()):
        if candidate is not None and not re.fullmatch(r"[!-~]+", candidate):
            # Sent on, it would be refused by the HTTP library with an error that quotes it.
            raise ValueError("the token holds characters that no token has; log in anew with `hf auth login`")
    return token


def _check_repo_id(repo_id: str) -> None:
    validate_repo_id(repo_id)
    if "/" not in repo_id:  # the client would guess the user's own namespace
        raise HFValidationError(repo_id)


def _require_token(repo_id: str, token: str | None) -> str | None:
    _check_repo_id(repo_id)
    token = _clean(token)
    if token is None and get_token() is None:
        raise LocalTokenNotFoundError("no token")
    return token


# --- Fetching ---------------------------------------------------------------------------------------------------------


def fetch(
    repo_id: str,
    filename: str,
    *,
    revision: str,
    sha256: str,
    token: str | None = None,
    endpoint: str | None = None,
    cache_dir: str | Path | None = None,
) -> Path:
    """Fetch one published weight file, or find it in the client's cache, and verify it.

    Args:
        repo_id: The repository, as ``org/name``.
        filename: A plain name that ends with ``.safetensors``: no other format, no folder.
        revision: The commit to which the file is pinned.
        sha256: The file's expected sha256 in hexadecimal digits.
        token: As in `publish`; needed for private repositories only.
        endpoint: As in `publish`.
        cache_dir: The client's cache; by default ``HF_HUB_CACHE``.

    Raises:
        WeightError: If the name is not such a name, or the file is not the expected one.
        HubError: If the Hub is out of reach and the file not in the cache, or the Hub does not give it.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors", filename):
        raise WeightError(f"refusing to fetch {filename!r}: expected the plain name of a .safetensors file")
    problem = None
    try:
        token = _clean(token)
        _check_repo_id(repo_id)
        api = _api(token, endpoint)
        path = Path(api.hf_hub_download(repo_id, filename, revision=revision, cache_dir=cache_dir))
    except Exception as error:
        problem = failure_reason(error, repo_id, token=token, endpoint=endpoint)
    if problem is not None:  # raised here for the same reason as in _upload
        raise HubError(f"cannot fetch {filename} of {repo_id} at revision {revision}: {problem}")
    actual = file_sha256(path)
    if actual != sha256.lower():
        raise WeightError(
            f"{filename} of {repo_id} has sha256 {actual[:12]}…, expected was {sha256[:12].lower()}…; it is damaged or "
            f"not the published one: delete {path} and try again"
        )
    return path


def file_sha256(path: Path) -> str:
    """The sha256 of a file's content, in 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
