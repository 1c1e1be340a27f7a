"""Download single files of one commit from the Hub, and verify them."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from huggingface_hub.hf_api import RepoFile

from ssia_zoo.errors import HashError, HubError, WeightError
from ssia_zoo.hub.client import check_repo_id, clean_token, hub_api
from ssia_zoo.hub.errors import failure_reason
from ssia_zoo.hub.files import pickles_only
from ssia_zoo.hub.hashes import differing_sha256

_log = logging.getLogger(__name__)
_REVISION = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._/-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


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
    """Download one published weight file, or take it from the client's cache, and verify its sha256.

    Args:
        repo_id: The repository, as ``org/name``.
        filename: A plain name that ends with ``.safetensors``: no other format, no folder.
        revision: The commit.
        sha256: The file's expected sha256, as hexadecimal digits.
        token: As in `ssia_zoo.hub.publish`; needed for private repositories only.
        endpoint: As in `ssia_zoo.hub.publish`.
        cache_dir: The client's cache; by default ``HF_HUB_CACHE``.

    Raises:
        WeightError: If the name is not valid, or the file is not the expected one.
        HubError: If the file is not in the cache, and cannot be downloaded.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors", filename):
        raise WeightError(f"refusing to fetch {filename!r}; expected the plain name of a .safetensors file")
    where: dict[str, Any] = {"token": token, "endpoint": endpoint, "cache_dir": cache_dir}
    path = fetch_files(repo_id, (filename,), revision=revision, **where) / filename
    _check_sha256(path, sha256, f"{filename} of {repo_id}")
    return path


def fetch_files(
    repo_id: str,
    names: Sequence[str],
    *,
    revision: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
    cache_dir: str | Path | None = None,
) -> Path:
    """Download some files of one commit, or take them from the client's cache.

    A branch or tag is resolved with the first file; the other files come from the same commit. Files whose sha256 the
    Hub reports (weight files) are verified.

    Args:
        repo_id: The repository, as ``org/name``.
        names: Plain names, which end with ``.json`` or ``.safetensors``.
        revision: Commit, branch or tag; the main branch if None.
        token: As in `ssia_zoo.hub.publish`; needed for private repositories only.
        endpoint: As in `ssia_zoo.hub.publish`.
        cache_dir: The client's cache; by default ``HF_HUB_CACHE``.

    Returns:
        The folder that contains them, named after the commit.

    Raises:
        WeightError: If the repository offers pickles only, or a file is damaged.
        HubError: If a file is not in the cache, and cannot be downloaded.
    """
    if revision is not None and not _REVISION.fullmatch(revision):
        raise HubError(f"{revision!r} is not a revision of {repo_id}; expected a commit, branch or tag")
    problem = None
    offers: list[str] = []
    paths: list[Path] = []
    commit = revision
    try:
        token = clean_token(token)
        check_repo_id(repo_id)
        api = hub_api(token, endpoint)
        for name in names:
            paths.append(Path(api.hf_hub_download(repo_id, name, revision=commit, cache_dir=cache_dir)))
            commit = paths[0].parent.name
            if not _COMMIT.fullmatch(commit):
                raise ValueError(f"the Hub reports {commit!r} as the commit, which is not a commit id")
    except Exception as error:
        problem = failure_reason(error, repo_id, token=token, endpoint=endpoint)
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            offers = _list_files(api, repo_id, commit)
    at = f"{repo_id}@{revision}" if revision else repo_id
    if refusal := pickles_only(at, offers):
        raise WeightError(refusal)
    if problem is not None:  # not chained: the text of the client's error may contain the token
        raise HubError(f"cannot fetch {names[len(paths)]} of {at}: {problem}")
    for path in paths:
        _check_stored(path, at, api, repo_id)
    return paths[0].parent


def fetch_repository(
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
    cache_dir: str | Path | None = None,
) -> Path:
    """Download all files of one commit, or take them from the client's cache; arguments are those of `fetch_files`.

    Returns:
        The folder that contains them, named after the commit.

    Raises:
        WeightError: If a file whose sha256 the Hub reports is damaged.
        HubError: If a file is not in the cache, and cannot be downloaded.
    """
    at = f"{repo_id}@{revision}" if revision else repo_id
    if revision is not None and not _REVISION.fullmatch(revision):
        raise HubError(f"{revision!r} is not a revision of {repo_id}; expected a commit, branch or tag")
    problem, folder = None, Path()
    try:
        token = clean_token(token)
        check_repo_id(repo_id)
        api = hub_api(token, endpoint)
        folder = Path(api.snapshot_download(repo_id, revision=revision, cache_dir=cache_dir))
    except Exception as error:
        problem = failure_reason(error, repo_id, token=token, endpoint=endpoint)
    if problem is not None:  # not chained: the text of the client's error may contain the token
        raise HubError(f"cannot fetch {at}: {problem}")
    for path in sorted(folder.rglob("*")):
        _check_stored(path, at, api, repo_id)
    return folder


def _list_files(api: HfApi, repo_id: str, revision: str | None) -> list[str]:
    try:
        return api.list_repo_files(repo_id, revision=revision)
    except Exception:  # the missing file is reported anyway
        return []


def _check_stored(path: Path, at: str, api: HfApi, repo_id: str) -> None:
    # In the cache, weight files are links to blobs named by their sha256. With Xet, a blob may in turn be a link to one
    # that all repositories share, named by its hash in Xet.
    stored_as = path.readlink().name if path.is_symlink() else path.name
    if _SHA256.fullmatch(stored_as):
        _check_sha256(path, stored_as, f"{path.name} of {at}")
    elif not path.is_symlink() and path.suffix == ".safetensors":
        _check_unlinked(path, at, api, repo_id)


def _check_unlinked(path: Path, at: str, api: HfApi, repo_id: str) -> None:
    # Without symbolic links, as on Windows, the cache does not keep the sha256: ask the Hub.
    try:
        (stored,) = api.get_paths_info(repo_id, [path.name], revision=path.parent.name)
        sha256 = stored.lfs.sha256 if isinstance(stored, RepoFile) and stored.lfs is not None else None
    except Exception:
        sha256 = None
    if sha256 is None:
        _log.warning("%s of %s is used unchecked: the cache has no links, and the Hub gave no sha256", path.name, at)
    else:
        _check_sha256(path, sha256, f"{path.name} of {at}")


def _check_sha256(path: Path, sha256: str, what: str) -> None:
    actual = differing_sha256(path, sha256)
    if actual is not None:
        raise HashError(
            f"{what} has sha256 {actual[:12]}…, expected {sha256[:12].lower()}…; it is damaged or not the published "
            f"file: delete {path.resolve()} and try again"
        )
