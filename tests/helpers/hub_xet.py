"""Xet storage for the Hub of tests: hf_xet's own storage in a local folder, which clients write and read directly.

The tokens that the Hub gives out name the storage `local://FOLDER` instead of a server's address. All else is as on the
Hub: hf_xet cuts files into chunks, stores them with a record of the file (a shard), and the commit names the sha256.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import hf_xet
from huggingface_hub import constants
from huggingface_hub.utils._xet import get_xet_session
from starlette.responses import JSONResponse, Response

from tests.helpers.hub_store import Blob, HubFault

if TYPE_CHECKING:
    from tests.helpers.hub_server import Call

_RECORD = 48  # bytes of each record in a shard, and of its header
_EXPIRES = 3600


@dataclass(frozen=True)
class XetFile:
    """A stored file: sha256 of its content, its hash in the storage, and its size."""

    sha256: str
    xet_hash: str
    size: int


class XetStorage:
    """What clients have stored in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.url = folder, f"local://{folder}"

    def files(self) -> Iterator[XetFile]:
        for shard in self.folder.glob("xet/xorbs/shards/*.mdb"):
            yield from _files(shard.read_bytes())

    def read(self, sha256: str) -> Blob | None:
        """Return a file by its sha256, as the Hub serves it to clients without Xet; None if it was never stored."""
        found = next((file for file in self.files() if file.sha256 == sha256), None)
        if found is None:
            return None
        with TemporaryDirectory() as folder:
            path = Path(folder) / "file"
            with get_xet_session().new_file_download_group(
                endpoint=self.url, token="xet", token_expiry_unix_secs=int(time.time()) + _EXPIRES
            ) as group:
                group.start_download_file(hf_xet.XetFileInfo(found.xet_hash, found.size), str(path))
            return Blob(path.read_bytes(), lfs=True, xet_hash=found.xet_hash)


def _files(shard: bytes) -> Iterator[XetFile]:
    """Read the files that a shard describes: a header, then for each file its segments, and its sha256 if flagged.

    https://huggingface.co/docs/xet/shard
    """
    at = _RECORD
    while (name := shard[at : at + 32]) != b"\xff" * 32:
        flags, segments = struct.unpack_from("<II", shard, at + 32)
        sizes = [struct.unpack_from("<I", shard, at + _RECORD * (i + 1) + 36)[0] for i in range(segments)]
        at += _RECORD * (1 + segments * (2 if flags & 1 << 31 else 1))  # flagged: a verification of each segment
        if flags & 1 << 30:
            yield XetFile(_hexadecimal(shard[at : at + 32]), _hexadecimal(name), sum(sizes))
            at += _RECORD


def _hexadecimal(name: bytes) -> str:
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", name))


async def token(call: Call, repo_id: str, kind: str, rev: str) -> Response:
    """Say where the storage is, in the body for hf_xet and in headers for huggingface_hub."""
    repo = call.writable(repo_id) if kind == "write" else call.readable(repo_id)
    repo.resolve(rev)
    if call.hub.xet is None:
        raise HubFault(404, f"no such endpoint: {call.request.url.path}")
    values = {"casUrl": call.hub.xet.url, "accessToken": "xet", "exp": int(time.time()) + _EXPIRES}
    names = ("ENDPOINT", "ACCESS_TOKEN", "EXPIRATION")
    headers = [getattr(constants, f"HUGGINGFACE_HEADER_X_XET_{name}") for name in names]
    return JSONResponse(values, headers=dict(zip(headers, map(str, values.values()), strict=True)))
