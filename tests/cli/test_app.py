"""The command `app`."""

from __future__ import annotations

import importlib.util
import socket
from importlib.machinery import ModuleSpec

import pytest

from ssia_zoo.cli.main import main
from tests.helpers.commands import Captured, failed_in_one_line


def test_without_gradio_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    find = importlib.util.find_spec

    def find_all_but_gradio(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name == "gradio" else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_all_but_gradio)
    for words in (["app", "--port", "0"], ["publish", "--space", "org/page"]):
        assert main(words) == 1
        assert "needs gradio; run: pip install 'ssia-zoo[app]'" in failed_in_one_line(capsys)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--port", "70000"], "--port is 70000; expected"),
        (["--max-megabytes", "0"], "--max-megabytes is 0"),
        (["--max-pixels", "3"], "--max-pixels is 3"),
    ],
)
def test_a_setting_out_of_range_is_refused(words: list[str], expected: str, capsys: Captured) -> None:
    assert main(["app", *words]) == 1
    assert expected in failed_in_one_line(capsys)


def test_a_port_in_use_is_one_line(capsys: Captured) -> None:
    pytest.importorskip("gradio", reason="needs gradio: make app-test")
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert main(["app", "--port", str(other.getsockname()[1])]) == 1
    message = failed_in_one_line(capsys)
    assert "cannot listen on 127.0.0.1" in message
    assert "--port" in message


def test_a_model_that_does_not_exist_is_one_line(capsys: Captured) -> None:
    pytest.importorskip("gradio", reason="needs gradio: make app-test")
    assert main(["app", "nonesuch", "--port", "0"]) == 1
    assert "there is no model 'nonesuch'" in failed_in_one_line(capsys)


@pytest.mark.parametrize(
    "words",
    [
        ["runs/x", "--out", "page"],
        ["runs/x", "org/x", "--space", "org/page"],
        ["--all", "--org", "org", "--space", "org/page"],
        ["runs/x", "--space", "org/page", "--with", "onnx"],
    ],
)
def test_flags_that_do_not_go_with_a_space_are_refused(words: list[str], capsys: Captured) -> None:
    assert main(["publish", *words]) == 2
    assert "--space" in failed_in_one_line(capsys)
