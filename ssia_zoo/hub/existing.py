"""Look at what a repository already holds, so that an upload keeps its owner's metadata and replaces no other model."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

import yaml
from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, but not re-exported by its type hints
    build_hf_headers,
    get_session,
    hf_raise_for_status,
)

from ssia_zoo.hub.client import ACCESS_TIMEOUT
from ssia_zoo.hub.files import CONFIG, some
from ssia_zoo.hub.folder import CARD

_WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf")
_ABOUT_THE_MODEL = (
    "library_name",
    "pipeline_tag",
    "tags",
    "datasets",
    "base_model",
    "base_model_relation",
    "metrics",
    "model-index",
)
"""Metadata that a card states of its own model: what an earlier card said may be wrong for a new one."""

_LICENSE = ("license", "license_name", "license_link")
"""Metadata that describes one thing: where a card has the first, the others of an earlier card do not belong to it."""

_FRONT_MATTER = re.compile(r"\A\ufeff?\s*---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"^(```|~~~).*?^\1", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^##[ \t]+(.+?)[ \t]*$", re.MULTILINE)


@dataclass(frozen=True)
class Existing:
    """A repository's main branch: commit, files, and the content of two of them; empty if there is no repository."""

    repo_id: str
    public: bool = False
    revision: str = ""
    files: frozenset[str] = field(default_factory=frozenset)
    config: str | None = None
    card: str | None = None


def look_at(api: HfApi, repo_id: str) -> Existing:
    """Ask the Hub what a repository holds; it must answer within ten seconds."""
    try:
        info = api.model_info(repo_id, timeout=ACCESS_TIMEOUT)
    except RepositoryNotFoundError:
        return Existing(repo_id)
    files = frozenset(sibling.rfilename for sibling in info.siblings or ())
    revision = info.sha or ""

    def read(name: str) -> str | None:
        if name not in files:
            return None
        url = hf_hub_url(repo_id, name, revision=revision or None, endpoint=api.endpoint)
        answer = get_session().get(url, headers=build_hf_headers(token=api.token), timeout=ACCESS_TIMEOUT)
        hf_raise_for_status(answer)
        return bytes(answer.content).decode("utf-8", errors="replace")

    return Existing(repo_id, not info.private, revision, files, read(CONFIG), read(CARD))


def stays_private(name: str) -> str:
    """Return the line for what was published as public, and is on the Hub already, as private."""
    return f"{name} is private and stays so; make it public in its settings on the Hub if others should see it"


def other_model(there: Existing, ours: dict[str, Any]) -> str | None:
    """Return how the model that a repository holds differs in kind from one to upload; None if it holds none such.

    Args:
        there: The repository.
        ours: Content of the config.json to upload; without "architecture", any architecture of timm's is accepted.
    """
    if there.config is None:
        weights = [name for name in there.files if name.endswith(_WEIGHT_FILES)]
        return f"{some(weights)}, without {CONFIG}" if weights else None
    try:
        theirs = json.loads(there.config)
        architecture = theirs.get("architecture")
        kind = theirs.get("model_type")
    except (ValueError, AttributeError, RecursionError):
        return f"its {CONFIG} is not valid"
    if not isinstance(architecture, str):
        return (
            f"model_type {some([kind])}" if isinstance(kind, str) else f"its {CONFIG} names no architecture of timm's"
        )
    if architecture != ours.get("architecture", architecture):
        return f"architecture {some([architecture])}"
    return f"{some([architecture])}, not trained with SSIA Zoo" if "ssia" in ours and "ssia" not in theirs else None


def merge_cards(ours: str, there: Existing) -> tuple[str, list[str]]:
    """Add to a card the metadata that the repository's own card has in addition, such as licence and gating prompt.

    Returns:
        The card, and one line for what was added and one for what the repository's card loses, if anything.
    """
    if there.card is None or there.card == ours:
        return ours, []
    theirs, mine = _metadata(there.card), _metadata(ours)
    kept: dict[str, Any] = {}
    lines, lost = [], []
    if theirs is None:
        lost.append("its metadata, which is not valid YAML")
    elif mine is not None:
        own = {*mine, *_ABOUT_THE_MODEL, *(_LICENSE if "license" in mine else ())}
        kept = {key: value for key, value in theirs.items() if key not in own}
        replaced = [key for key in theirs if key not in kept and key != "model-index" and theirs[key] != mine.get(key)]
        lost += [str(key) for key in replaced]
    headings = set(_headings(ours))
    lost += [f"## {heading}" for heading in _headings(there.card) if heading not in headings]
    if kept:
        lines.append(f"{there.repo_id}: {CARD} keeps what was set on the Hub: {_listed(kept)}")
    if lost:
        lines.append(f"{there.repo_id}: {CARD} replaces what it had in commit {there.revision}: {_listed(lost)}")
    return _with_metadata(ours, kept), lines


class _Loader(yaml.SafeLoader):
    """YAML as the Hub reads it, where "no" is a language and not False."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|false)$", re.IGNORECASE), list("tTfF"))


def _metadata(card: str) -> dict[str, Any] | None:
    """Return a card's metadata; None if it is not valid."""
    match = _FRONT_MATTER.match(card)
    try:
        found = yaml.load(match[1], _Loader) if match else {}
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    found = {} if found is None else found
    return found if isinstance(found, dict) else None


def _with_metadata(card: str, added: dict[str, Any]) -> str:
    if not added:
        return card
    text = yaml.safe_dump(added, sort_keys=False, allow_unicode=True)
    match = _FRONT_MATTER.match(card)
    return card[: match.end(1)] + text + card[match.end(1) :] if match else f"---\n{text}---\n\n{card}"


def _headings(card: str) -> list[str]:
    return _HEADING.findall(_CODE.sub("", card))


def _listed(names: Any) -> str:
    shown = [" ".join("".join(c if c.isprintable() else "?" for c in str(name)).split())[:80] for name in names]
    return ", ".join(shown)
