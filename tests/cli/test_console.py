"""Exit status and output of a command that a signal stops or whose streams are closed."""

from __future__ import annotations

import signal
import sys

import pytest

from ssia_zoo.cli.main import _COMMANDS, main

Captured = pytest.CaptureFixture[str]


def test_ctrl_c_ends_with_130_and_one_line(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    def stopped() -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setitem(_COMMANDS, "demo", stopped)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
    try:
        assert main(["demo"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "stopped\n"


def test_sigterm_ends_with_143_and_one_line_and_restores_the_handler(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    cleaned = []

    def stopped() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            cleaned.append(True)

    monkeypatch.setitem(_COMMANDS, "demo", stopped)
    before = signal.getsignal(signal.SIGTERM)
    assert main(["demo"]) == 143
    assert cleaned
    assert signal.getsignal(signal.SIGTERM) is before
    assert capsys.readouterr().err == "stopped\n"


def test_a_command_without_stdout_does_its_work(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["--version"]) == 0
    assert capsys.readouterr().err == ""


def test_a_message_for_a_closed_stderr_is_not_printed_on_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["nonesuch"]) == 2
    assert capsys.readouterr().out == ""
