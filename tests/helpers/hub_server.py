"""A Hugging Face Hub for tests: real HTTP on 127.0.0.1, models and data sets in memory.

It implements the endpoints that the `huggingface_hub` client uses, with the Hub's status codes and error headers, so
that tests use the real client. Data sets are stored as "datasets/org/name", Spaces as "spaces/org/name". Without Xet
storage (the attribute `xet`), clients need ``HF_HUB_DISABLE_XET=1``.

    with HubServer(tokens={"hf_good": "alice"}, orgs={"alice": ["org"]}) as hub:
        HfApi(endpoint=hub.url, token="hf_good").create_repo("org/model")
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

import uvicorn
import yaml
from huggingface_hub import ModelCard
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.helpers import hub_collections, hub_xet
from tests.helpers.hub_store import Blob, Commit, HubFault, Repo

DATE = "2025-01-01T00:00:00.000Z"
FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---", re.DOTALL)


class HubServer:
    """The server; it runs in a thread from `__enter__` to `__exit__`.

    Attributes:
        url: Its address, for ``endpoint`` or ``HF_ENDPOINT``.
        requests: (method, raw path) of every request so far.
        repos: Repositories by id.
        collections: Collections by slug, as the Hub describes them.
        xet: Its Xet storage, if it has one.
        delay: Seconds before each response; a lower value also applies to pending ones.
        die_after_bytes: Bytes of an LFS upload after which all connections are closed and no new one is accepted.
        dead: Whether that has happened.
    """

    def __init__(self, tokens: dict[str, str], orgs: dict[str, list[str]], read_only: tuple[str, ...] = ()) -> None:
        self.tokens, self.orgs, self.read_only = tokens, orgs, read_only
        self.requests: list[tuple[str, str]] = []
        self.repos: dict[str, Repo] = {}
        self.lfs: dict[str, bytes] = {}
        self.collections: dict[str, dict[str, Any]] = {}
        self.xet: hub_xet.XetStorage | None = None
        self.delay, self.dead, self.url = 0.0, False, ""
        self.die_after_bytes: int | None = None

    def __enter__(self) -> HubServer:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        app = Starlette(routes=[Route("/{path:path}", self._answer, methods=["GET", "POST", "PUT", "PATCH", "DELETE"])])
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]}, daemon=True)
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            self._thread.join(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(10)

    def file(self, repo_id: str, path: str, revision: str = "main") -> bytes:
        """Return the content of a stored file."""
        return self.repos[repo_id].resolve(revision).files[path].content

    def die(self) -> None:
        """Close every connection and accept no new one; to be called on the server's event loop."""
        self.dead = True
        for listener in self._server.servers:
            listener.close()
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()  # type: ignore[union-attr]

    async def _answer(self, request: Request) -> Response:
        # Branch names arrive as feature%2Fx: only the raw path distinguishes them from folders.
        path = request.scope["raw_path"].decode()
        self.requests.append((request.method, path))
        arrived = time.monotonic()
        while time.monotonic() - arrived < self.delay:
            await asyncio.sleep(0.01)
        try:
            for methods, pattern, handler in ROUTES:
                if request.method in methods.split("|") and (match := pattern.fullmatch(path)):
                    call = Call(self, request, self._user(request))
                    return await handler(call, **{k: unquote(v or "") for k, v in match.groupdict().items()})
            raise HubFault(404, f"no such endpoint: {request.method} {path}")
        except HubFault as fault:
            return fault.response()
        except ClientDisconnect:
            return Response(status_code=499)

    def _user(self, request: Request) -> str | None:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token and token not in self.tokens:
            raise HubFault(401, "Invalid credentials in Authorization header")
        return self.tokens.get(token)


class Call:
    """One request and its user; a method for each endpoint."""

    def __init__(self, hub: HubServer, request: Request, user: str | None) -> None:
        self.hub, self.request, self.user = hub, request, user

    def member(self, namespace: str) -> bool:
        return self.user is not None and namespace in (self.user, *self.hub.orgs.get(self.user, []))

    def readable(self, repo_id: str) -> Repo:
        repo = self.hub.repos.get(repo_id)
        if repo is None or (repo.private and not self.member(repo_id.split("/")[-2])):
            raise HubFault(404, "Repository not found", "RepoNotFound")
        return repo

    def role(self) -> str:
        if self.user is None:
            raise HubFault(401, "Invalid username or password.")
        token = self.request.headers["authorization"].removeprefix("Bearer ")
        return "read" if token in self.hub.read_only else "write"

    def may_write(self, namespace: str) -> None:
        if self.role() == "read" or not self.member(namespace):
            raise HubFault(403, f"You don't have the rights to write under the namespace {namespace}")

    def writable(self, repo_id: str) -> Repo:
        repo = self.readable(repo_id)
        self.may_write(repo_id.split("/")[-2])
        return repo

    async def whoami(self) -> Response:
        auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": self.role()}}
        orgs = [{"type": "org", "name": org, "roleInOrg": "write"} for org in self.hub.orgs.get(str(self.user), [])]
        return JSONResponse({"type": "user", "name": self.user, "orgs": orgs, "auth": auth})

    async def create_repo(self) -> Response:
        body = await self.request.json()
        namespace = body.get("organization") or self.user
        self.may_write(namespace)
        prefix = {"dataset": "datasets/", "space": "spaces/"}.get(body.get("type"), "")
        repo_id = prefix + (name := f"{namespace}/{body['name']}")
        answer = {"url": f"{self.hub.url}/{repo_id}", "name": name}
        if repo_id in self.hub.repos:
            return JSONResponse(answer | {"error": "You already created this model repo"}, 409)
        self.hub.repos[repo_id] = repo = Repo(bool(body.get("private")) or body.get("visibility") == "private")
        repo.branches["main"] = repo.commit("initial commit", "", None, {}).oid
        return JSONResponse(answer)

    async def info(self, repo_id: str, rev: str = "") -> Response:
        repo = self.readable(repo_id)
        commit = repo.resolve(rev or "main")
        card = FRONT_MATTER.match(commit.files["README.md"].content.decode()) if "README.md" in commit.files else None
        data = (yaml.safe_load(card[1]) if card else None) or {}
        name = repo_id.removeprefix("datasets/").removeprefix("spaces/")
        answer: dict[str, Any] = {"_id": repo_id, "id": name, "modelId": name}
        answer |= {"sha": commit.oid, "private": repo.private}
        answer |= {"siblings": [{"rfilename": path} for path in sorted(commit.files)], "cardData": data}
        found = hub_collections.eval_results(commit.files)
        answer |= {"evalResults": found} if "evalResults" in self.request.query_params.getlist("expand") else {}
        answer |= {"tags": data.get("tags", []), "downloads": 0, "likes": 0, "lastModified": DATE, "createdAt": DATE}
        return JSONResponse(answer)

    async def tree(self, repo_id: str, rev: str, folder: str = "") -> Response:
        files = self.readable(repo_id).resolve(rev).files
        prefix = f"{folder}/" if folder else ""
        recursive = self.request.query_params.get("recursive", "").lower() in ("1", "true")
        entries: dict[str, dict[str, Any]] = {}
        for path, blob in sorted(files.items()):
            if not path.startswith(prefix):
                continue
            parts = path.removeprefix(prefix).split("/")
            for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
                name = prefix + "/".join(parts[:depth])
                entries[name] = {"type": "directory", "path": name, "oid": hashlib.sha1(name.encode()).hexdigest()}
            if recursive or len(parts) == 1:
                entries[path] = file_entry(path, blob)
        if folder and not entries:
            raise HubFault(404, f"{folder} does not exist", "EntryNotFound")
        return JSONResponse(list(entries.values()))

    async def paths_info(self, repo_id: str, rev: str) -> Response:
        files = self.readable(repo_id).resolve(rev).files
        form = await self.request.form()
        paths = [str(path) for path in form.getlist("paths")]
        return JSONResponse([file_entry(path, files[path]) for path in paths if path in files])

    async def refs(self, repo_id: str) -> Response:
        heads = self.readable(repo_id).branches.items()
        branches = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": oid} for name, oid in heads]
        return JSONResponse({"branches": branches, "tags": [], "converts": [], "pullRequests": []})

    async def commits(self, repo_id: str, rev: str) -> Response:
        repo = self.readable(repo_id)
        commit: Commit | None = repo.resolve(rev)
        listed: list[dict[str, Any]] = []
        while commit:
            listed.append({"id": commit.oid, "title": commit.title, "message": commit.message, "date": DATE})
            listed[-1]["authors"] = []
            commit = repo.commits[commit.parent] if commit.parent else None
        return JSONResponse(listed)

    async def branch(self, repo_id: str, name: str) -> Response:
        branches = self.writable(repo_id).branches
        if self.request.method == "DELETE":
            del branches[name]
            return JSONResponse({})
        if name in branches:
            raise HubFault(409, f"Reference {name} exists already")
        body = json.loads(await self.request.body() or b"{}")
        branches[name] = self.hub.repos[repo_id].resolve(body.get("startingPoint") or "main").oid
        return JSONResponse({})

    async def validate_yaml(self) -> Response:
        try:
            ModelCard((await self.request.json())["content"])  # raises for a model-index that is not valid
        except (yaml.YAMLError, ValueError, KeyError) as error:
            return JSONResponse({"errors": [{"message": str(error)}], "warnings": []}, 400)
        return JSONResponse({"errors": [], "warnings": []})

    async def preupload(self, repo_id: str, rev: str) -> Response:
        files = self.writable(repo_id).resolve(rev).files
        answer = []
        for file in (await self.request.json())["files"]:
            lfs = file["path"].endswith((".safetensors", ".bin", ".parquet")) or file["size"] > 10_000_000
            entry = {"path": file["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
            answer.append(entry | ({"oid": files[file["path"]].etag} if file["path"] in files else {}))
        return JSONResponse({"files": answer})

    async def lfs_batch(self, repo_id: str) -> Response:
        self.writable(repo_id)
        answer: list[dict[str, Any]] = []
        for wanted in (await self.request.json())["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.lfs:
                upload = {"href": f"{self.hub.url}/_lfs/{wanted['oid']}"}
                verify = {"href": f"{self.hub.url}/{repo_id}.git/info/lfs/verify"}
                entry["actions"] = {"upload": upload, "verify": verify}
            answer.append(entry)
        return JSONResponse({"transfer": "basic", "objects": answer})

    async def lfs_put(self, oid: str) -> Response:
        content = bytearray()
        async for chunk in self.request.stream():
            content += chunk
            if self.hub.die_after_bytes is not None and len(content) >= self.hub.die_after_bytes:
                self.hub.die()
                raise HubFault(500, "the server has died")
        if hashlib.sha256(content).hexdigest() != oid:
            raise HubFault(400, "content does not match its oid")
        self.hub.lfs[oid] = bytes(content)
        return Response(status_code=200)

    async def lfs_verify(self, repo_id: str) -> Response:
        body = await self.request.json()
        if len(self.hub.lfs.get(body["oid"], b"")) != body["size"]:
            raise HubFault(404, "object not found or of another size")
        return JSONResponse({})

    async def commit(self, repo_id: str, rev: str) -> Response:
        repo = self.writable(repo_id)
        if rev not in repo.branches:
            raise HubFault(404, f"Invalid rev id: {rev}", "RevisionNotFound")
        parent = repo.resolve(rev)
        files, header = dict(parent.files), {}
        for line in (await self.request.body()).splitlines():
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "header":
                header = value
            elif key == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), lfs=False)
            elif key == "lfsFile":
                files[value["path"]] = self._uploaded(value["oid"])
            elif key == "deletedFile":
                files.pop(value["path"], None)
        if header.get("parentCommit", parent.oid) != parent.oid:
            raise HubFault(412, "A commit has happened since. Please refresh and try again.")
        new = repo.commit(header.get("summary", ""), header.get("description", ""), parent, files)
        repo.branches[rev] = new.oid
        return JSONResponse({"commitUrl": f"{self.hub.url}/{repo_id}/commit/{new.oid}", "commitOid": new.oid})

    def _uploaded(self, oid: str) -> Blob:
        if oid in self.hub.lfs:
            return Blob(self.hub.lfs[oid], lfs=True)
        if self.hub.xet and (blob := self.hub.xet.read(oid)):
            return blob
        raise HubFault(400, f"LFS object {oid} was never uploaded")

    async def download(self, repo_id: str, rev: str, path: str) -> Response:
        commit = self.readable(repo_id).resolve(rev)
        if path not in commit.files:
            fault = HubFault(404, "Entry not found", "EntryNotFound").response()
            fault.headers["X-Repo-Commit"] = commit.oid
            return fault
        blob = commit.files[path]
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
        if blob.lfs:
            headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.content))}
        if blob.xet_hash:
            route = f"{self.hub.url}/api/models/{repo_id}/xet-read-token/{commit.oid}"
            headers |= {"X-Xet-Hash": blob.xet_hash, "X-Xet-Refresh-Route": route}
        content, status = blob.content, 200
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.request.headers.get("range", "")):
            start, end = int(match[1]), min(int(match[2] or len(content)), len(content) - 1)
            if start >= len(content):
                return Response(status_code=416, headers={"Content-Range": f"bytes */{len(content)}"})
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            content, status = content[start : end + 1], 206
        return Response(content, status, headers, media_type="application/octet-stream")


def file_entry(path: str, blob: Blob) -> dict[str, Any]:
    """Return a file's entry for the tree and paths-info endpoints."""
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(blob.content), "oid": blob.git_oid}
    if blob.lfs:
        entry["lfs"] = {"oid": blob.sha256, "size": len(blob.content), "pointerSize": 130}
    return entry


REPO, REV = r"(?P<repo_id>(?:datasets/|spaces/)?[^/]+/[^/]+)", r"(?P<rev>[^/]+)"
API = f"/api/(?:models/)?{REPO}"
ROUTES: list[tuple[str, re.Pattern[str], Callable[..., Awaitable[Response]]]] = [
    (methods, re.compile(pattern), handler)
    for methods, pattern, handler in (
        ("GET", "/api/whoami-v2", Call.whoami),
        ("POST", "/api/repos/create", Call.create_repo),
        ("POST", "/api/validate-yaml", Call.validate_yaml),
        *hub_collections.ROUTES,
        ("GET", f"{API}(/revision/{REV})?", Call.info),
        ("GET", f"{API}/tree/{REV}(/(?P<folder>.+))?", Call.tree),
        ("POST", f"{API}/paths-info/{REV}", Call.paths_info),
        ("GET", f"{API}/refs", Call.refs),
        ("GET", f"{API}/commits/{REV}", Call.commits),
        ("POST|DELETE", f"{API}/branch/(?P<name>[^/]+)", Call.branch),
        ("POST", f"{API}/preupload/{REV}", Call.preupload),
        ("GET", f"{API}/xet-(?P<kind>read|write)-token/{REV}", hub_xet.token),
        ("POST", f"{API}/commit/{REV}", Call.commit),
        ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", Call.lfs_batch),
        ("POST", rf"/{REPO}\.git/info/lfs/verify", Call.lfs_verify),
        ("PUT", "/_lfs/(?P<oid>[0-9a-f]{64})", Call.lfs_put),
        ("GET|HEAD", f"/{REPO}/resolve/{REV}/(?P<path>.+)", Call.download),
    )
]
