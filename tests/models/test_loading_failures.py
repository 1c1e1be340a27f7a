"""Loading offline, without a Hub, with a full disk and from a read-only cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from ssia_zoo import hub as zoo_hub
from ssia_zoo.errors import HubError
from ssia_zoo.models.loading import load_model
from tests.helpers.hub_server import HubServer
from tests.helpers.stored_models import REPO, assert_loaded, published, refusal, store


def test_offline_cached_models_load_and_others_are_reported(
    hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = store(hub, REPO, published(folder))
    load_model(REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    before = len(hub.requests)
    for name in (REPO, f"{REPO}@{commit}"):
        assert_loaded(load_model(name), folder)
    assert "unset HF_HUB_OFFLINE" in refusal("org/other", HubError)
    assert "unset HF_HUB_OFFLINE" in refusal("test_resnet", HubError)
    assert len(hub.requests) == before


@pytest.mark.usefixtures("impatient_client")
def test_without_the_hub_cached_models_load_and_others_are_reported(
    hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(hub, REPO, published(folder))
    load_model(REPO)
    for name, value in (("ENDPOINT", "http://127.0.0.1:1"), ("HUGGINGFACE_CO_URL_TEMPLATE", None)):
        template = "http://127.0.0.1:1/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, name, value or template)
    assert_loaded(load_model(REPO), folder)
    assert "cannot reach the Hub" in refusal("org/other", HubError)


LOAD = """
import sys
from ssia_zoo.errors import SSIAZooError
from ssia_zoo.models.loading import load_model
for name in sys.argv[1:]:
    try:
        print("loaded", load_model(name).num_classes)
    except SSIAZooError as error:
        print(type(error).__name__, error)
"""


def load_in_a_child(*names: str, before: list[str]) -> list[str]:
    """Load in a new process, with the environment of the fixture `hub`; return one line per name."""
    command = [*before, sys.executable, "-c", LOAD, *names]
    root = Path(zoo_hub.__file__).parent.parent
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(names)
    return lines


def test_a_full_disk_is_reported_in_one_line_and_leaves_no_partial_files(hub: HubServer, folder: Path) -> None:
    store(hub, REPO, published(folder))
    small = 100_000  # largest file, bytes: enough for config.json only
    limited = ["sh", "-c", f'ulimit -f {small // 512}; exec "$@"', "sh"]
    (printed,) = load_in_a_child(REPO, before=limited)
    assert printed.startswith("HubError")
    assert "model.safetensors" in printed
    assert "too large" in printed
    left = [path.name for path in Path(constants.HF_HUB_CACHE).rglob("*") if path.is_file()]
    assert "model.safetensors" not in left
    assert not [name for name in left if name.endswith(".incomplete") or len(name) == 64]
    assert_loaded(load_model(REPO), folder)


def unprivileged() -> list[str]:
    """Return a command prefix under which file modes apply, even if the tests run as root."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("file modes do not apply to root, and setpriv is missing")
    return [
        "setpriv",
        "--bounding-set",
        "-dac_override,-dac_read_search",
        "--inh-caps",
        "-dac_override,-dac_read_search",
    ]


def test_a_read_only_cache_serves_its_files_and_reports_others(hub: HubServer, folder: Path) -> None:
    store(hub, REPO, published(folder))
    store(hub, "org/other", published(folder))
    load_model(REPO)
    shutil.rmtree(Path(constants.HF_HOME) / "ssia_zoo")
    folders = [Path(constants.HF_HOME), *(p for p in Path(constants.HF_HOME).rglob("*") if p.is_dir())]
    for path in folders:
        path.chmod(0o555)
    try:
        cached, other = load_in_a_child(REPO, "org/other", before=unprivileged())
        assert not (Path(constants.HF_HOME) / "ssia_zoo").exists()
    finally:
        for path in folders:
            path.chmod(0o755)
    assert cached == "loaded 7"
    assert other.startswith("HubError")
    assert "ermission denied" in other
