"""What the Hub for tests stores: repositories, commits, files; and its error responses."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from starlette.responses import JSONResponse, Response


class HubFault(Exception):
    """An error response, with the headers that the client reads."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code

    def response(self) -> Response:
        headers = {"X-Error-Message": self.message} | ({"X-Error-Code": self.code} if self.code else {})
        return JSONResponse({"error": self.message}, self.status, headers)


@dataclass(frozen=True)
class Blob:
    """A file's content; `lfs` is whether it was uploaded to the LFS store or within the commit; its hash in Xet."""

    content: bytes
    lfs: bool
    xet_hash: str | None = None

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def git_oid(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.git_oid


@dataclass
class Commit:
    """One commit: all its files, and the fields of `list_repo_commits`."""

    oid: str
    title: str
    message: str
    parent: str | None
    files: dict[str, Blob]


@dataclass
class Repo:
    """A repository of a model or a data set."""

    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def resolve(self, revision: str) -> Commit:
        oid = self.branches.get(revision, revision)
        if oid not in self.commits:
            raise HubFault(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]

    def commit(self, title: str, message: str, parent: Commit | None, files: dict[str, Blob]) -> Commit:
        oid = hashlib.sha1(f"{title} {len(self.commits)} {sorted(files)}".encode()).hexdigest()
        self.commits[oid] = Commit(oid, title, message, parent.oid if parent else None, files)
        return self.commits[oid]
