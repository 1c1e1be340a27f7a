"""How a command ends when a signal stops it."""

from __future__ import annotations

import signal

import pytest

from ssia_zoo import cli
from ssia_zoo.cli import main

Captured = pytest.CaptureFixture[str]


def test_ctrl_c_ends_with_130_and_one_line(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    def stopped() -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setitem(cli._COMMANDS, "demo", stopped)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        assert main(["demo"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "stopped\n"


def test_sigterm_ends_with_143_one_line_and_the_handler_of_before(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    tidied = []

    def stopped() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            tidied.append(True)

    monkeypatch.setitem(cli._COMMANDS, "demo", stopped)
    before = signal.getsignal(signal.SIGTERM)
    assert main(["demo"]) == 143
    assert tidied
    assert signal.getsignal(signal.SIGTERM) is before
    assert capsys.readouterr().err == "stopped\n"
