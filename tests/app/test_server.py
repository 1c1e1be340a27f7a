"""The server of the page over HTTP: which files it takes, whom it answers, and what stays when it stops."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ssia_zoo.app.examples import digit
from tests.app.browser import served, started
from tests.helpers.commands import FULL

pytest.importorskip("gradio", reason="needs gradio: make app-test")
httpx = pytest.importorskip("httpx", reason="needs gradio: make app-test")

COMMAND = ("-m", "ssia_zoo.cli", "app", "--port", "0")
SPACE = f"from ssia_zoo.app import AppConfig, serve; serve(AppConfig(port=0, models=({FULL!r},), zoo=False))"
SHORT_LIVED = f"import ssia_zoo.app.page as page; page._INTERVAL, page.LIFETIME = 1, 5; {SPACE}"


class Client:
    """Calls the functions of a page as its script in the browser does."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=120, trust_env=False)

    def upload(self, path: Path) -> str:
        answer = self.http.post("/gradio_api/upload", files={"files": (path.name, path.read_bytes())})
        return str(answer.raise_for_status().json()[0])

    def call(self, function: int, *data: Any) -> Any:
        """Return the output of an event of the page; None if it fails."""
        event = {"data": data, "fn_index": function, "session_hash": "s"}
        self.http.post("/gradio_api/queue/join", json=event).raise_for_status()
        with self.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": "s"}) as stream:
            for line in stream.iter_lines():
                message = json.loads(line.removeprefix("data:") or "{}")
                if message.get("msg") == "process_completed":
                    return message["output"]["data"] if message["success"] else None
        return None

    def shows(self, path: str, text: str) -> bool:
        """Return whether the page shows a text about a picture; False if it refuses the picture's path."""
        data = self.call(0, {"path": path, "meta": {"_type": "gradio.FileData"}}, FULL, "none")
        return data is not None and text in re.sub("<[^>]*>", " ", data[0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[Client]:
    with served(*COMMAND, folder=folder, TMPDIR=str(folder)) as url:
        yield Client(url)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    digit(5).save(tmp_path / "five.png")
    return tmp_path / "five.png"


def test_an_uploaded_picture_is_answered(client: Client, picture: Path) -> None:
    assert client.shows(client.upload(picture), f"{FULL}: 5")


def test_no_other_file_of_the_machine_is_read(client: Client, folder: Path, picture: Path) -> None:
    own = client.upload(picture)
    before = set(folder.rglob("*"))
    for path in (str(picture), "/etc/passwd", "/dev/zero", f"{own}/../../../../{picture}", __file__):
        assert not client.shows(path, "")
    assert set(folder.rglob("*")) == before
    assert client.shows(own, f"{FULL}: 5")


def test_the_page_answers_to_names_of_this_machine_only(client: Client) -> None:
    port = client.http.base_url.port
    for name, status in {"127.0.0.1": 200, "localhost": 200, "[::1]": 200, "evil.example": 400}.items():
        assert client.http.get("/config", headers={"Host": f"{name}:{port}"}).status_code == status


def test_an_example_can_be_clicked_again_after_it_was_removed(tmp_path: Path) -> None:
    second = 2  # Gradio keeps the first, which the page shows when it is opened
    with served("-c", SHORT_LIVED, folder=tmp_path) as url:
        client = Client(url)
        path = client.call(second)[0]["path"]
        assert client.shows(path, f"{FULL}: 8")
        for _ in range(60):
            if not Path(path).exists():
                break
            time.sleep(0.5)
        assert client.shows(path, "The picture was removed, as pictures are after")
        assert client.call(second)[0]["path"] == path
        assert client.shows(path, f"{FULL}: 8")


@pytest.mark.parametrize(
    ("number", "command"),
    [(signal.SIGHUP, COMMAND), (signal.SIGTERM, ("-c", SPACE))],
    ids=["SIGHUP", "SIGTERM to a Space"],
)
def test_no_picture_stays_when_a_signal_stops_the_page(
    number: int, command: tuple[str, ...], tmp_path: Path, picture: Path
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with started(*command, folder=tmp_path, TMPDIR=str(temporary)) as (process, url):
        assert Path(Client(url).upload(picture)).is_relative_to(temporary)
        process.send_signal(number)
        assert process.wait(60) == 128 + signal.SIGTERM
    assert list(temporary.iterdir()) == []
