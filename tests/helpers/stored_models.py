"""Store models in the tests' Hub server, and check what is loaded from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ssia_zoo.errors import SSIAZooError, WeightError
from ssia_zoo.hub import PUBLISHED_FILES
from ssia_zoo.models.loading import load_model
from tests.helpers.hub_server import Blob, HubServer, Repo

REPO = "org/model"


def assert_loaded(model: torch.nn.Module, folder: Path) -> None:
    expected = load_file(folder / "model.safetensors")
    state = model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


def refusal(name: str, kind: type[SSIAZooError] = WeightError, **kwargs: object) -> str:
    with pytest.raises(kind) as refused:
        load_model(name, **kwargs)
    text = str(refused.value)
    assert "\n" not in text
    return text


def store(hub: HubServer, repo_id: str, files: dict[str, bytes]) -> str:
    """Put files into a repository of the server; return the commit."""
    repo = hub.repos.setdefault(repo_id, Repo(private=False))
    blobs = {name: Blob(content, lfs=not name.endswith(".json")) for name, content in files.items()}
    repo.branches["main"] = repo.commit("files", "", None, blobs).oid
    return repo.branches["main"]


def published(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in PUBLISHED_FILES}
