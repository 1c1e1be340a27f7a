"""Fixtures that several test files share."""

from __future__ import annotations

import os

# Read by huggingface_hub at its import: no test may reach the real Hub. Xet is on in tests/hub/test_xet.py only.
os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"  # but for tests with a Hub of their own, by the fixture `hub`
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# Small sums are quicker on one thread, and waiting threads would take the cores from the tests' child processes.
os.environ["OMP_NUM_THREADS"] = "1"

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session
from hypothesis import settings

from ssia_zoo.models import registry
from tests.helpers.commands import logging_stays
from tests.helpers.hub_server import HubServer
from tests.helpers.publishable_folder import make_folder

# CI must say the same of the same commit twice; elsewhere every run looks at new examples.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


@pytest.fixture(autouse=True)
def _logging_stays() -> Iterator[None]:
    with logging_stays():
        yield


TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub on loopback to which this process and its children talk by default, with an empty cache and no token.

    "hf_good" is alice, who may write to "alice" and "org"; "hf_other" is bob; "hf_read" is alice, but may only read.
    """
    tokens = {"hf_good": "alice", "hf_other": "bob", "hf_read": "alice"}
    home = tmp_path / "hf_home"
    with HubServer(tokens=tokens, orgs={"alice": ["org"]}, read_only=("hf_read",)) as server:
        # For children: the environment. For this process: the constants that huggingface_hub made of it at import.
        environment = {"HF_ENDPOINT": server.url, "HF_HOME": home, "HF_HUB_CACHE": home / "hub", "HF_HUB_OFFLINE": "0"}
        for name, value in environment.items():
            monkeypatch.setenv(name, str(value))
        for name in (*TOKEN_VARIABLES, "HF_TOKEN_PATH"):
            monkeypatch.delenv(name, raising=False)
        read: dict[str, Any] = {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
        }
        for name, value in read.items():
            monkeypatch.setattr(constants, name, value)
        close_session()
        yield server
    for thread in threading.enumerate():
        if thread.name == "ssia-zoo-push":  # finding no Hub, it would close the next test's connections
            thread.join(30)
    close_session()


@pytest.fixture
def datasets_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `datasets` writes goes to a cache of the test's own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))  # of child processes
    datasets.disable_progress_bars()
    # It waits 5 seconds whenever a shuffled stream of parquet files ends, for a flaw of Arrow's at the program's end.
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.01, raising=False)  # from 5.0 on


@pytest.fixture(autouse=True)
def published_weights_kept() -> Iterator[None]:
    """What a test registers as published is not published for the next one."""
    before = dict(registry._weights)
    yield
    registry._weights.clear()
    registry._weights.update(before)


@pytest.fixture
def impatient_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the Hub client's pauses between its retries pass at once."""
    sleep = time.sleep
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: sleep(min(seconds, 0.01)))


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A publishable folder, made once and never changed."""
    return make_folder(tmp_path_factory.mktemp("pristine") / "run")


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    """A publishable folder of the test's own; the space in its name is meant."""
    return Path(shutil.copytree(pristine, tmp_path / "my run"))
