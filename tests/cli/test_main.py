"""The command `ssia-zoo`: help, wrong usage, exit statuses."""

from __future__ import annotations

import json

import pytest

import ssia_zoo
from ssia_zoo.cli.main import _COMMANDS, main
from tests.helpers.commands import FULL, WEIGHT, Captured, failed_in_one_line, start


@pytest.mark.parametrize("command", sorted(set(_COMMANDS) - {"train"}))
def test_help_of_a_command_has_examples(command: str, capsys: Captured) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"  ssia-zoo {command}" in capsys.readouterr().out


def test_help_has_the_commands_and_the_exit_statuses(capsys: Captured) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    for text in (*(f"\n  {command} " for command in _COMMANDS), "  1 ", "  2 ", "  130 ", "  141 ", "  143 "):
        assert text in printed
    assert max(map(len, printed.splitlines())) <= 110


def test_an_unknown_command_suggests_the_nearest(capsys: Captured) -> None:
    assert main(["exprot"]) == 2
    assert "'exprot'; did you mean export?" in failed_in_one_line(capsys)


@pytest.mark.parametrize(
    "wrong",
    [
        ["nonesuch"],
        [],
        ["demo", "--nonesuch"],
        ["info"],
        ["predict", "x.png"],
        ["predict", "--model", WEIGHT],
        ["predict", "x.png", "--model", WEIGHT, "--top", "many"],
        ["explain", "x.png", "--model", WEIGHT],
        ["validate", WEIGHT],
        ["publish"],
        ["publish", "only-one"],
        ["publish", "--all"],
        ["publish", "--org", "org"],
        ["publish", "folder", "org/name", "--all", "--org", "org"],
        ["export", "onnx"],
        ["arena"],
        ["arena", "run"],
        ["arena", "report"],
        ["arena", "power", "plan.yaml"],
    ],
)
def test_a_wrong_command_line_ends_with_status_2(wrong: list[str], capsys: Captured) -> None:
    try:
        status = main(wrong)
    except SystemExit as caught:
        status = caught.code
    assert status == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("error", "message"),
    [(RuntimeError("a\nbug"), "RuntimeError: a bug"), (OSError(28, "No space left on device"), "No space left")],
)
def test_an_unexpected_error_is_one_line(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setitem(_COMMANDS, "demo", fail)
    assert main(["demo"]) == 1
    assert message in failed_in_one_line(capsys)
    monkeypatch.setenv("SSIA_ZOO_DEBUG", "1")
    assert main(["demo"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_closed_pipe_ends_the_command_silently() -> None:
    process = start("list")
    process.stdout.close()  # type: ignore[union-attr]
    error = process.stderr.read()  # type: ignore[union-attr]
    assert (process.wait(), error) == (141, "")


def test_piped_output_is_plain_text_or_only_json() -> None:
    table, document = start("list"), start("list", "--json")
    printed, error = table.communicate()
    assert (table.returncode, error) == (0, "")
    assert FULL in printed
    assert "\x1b" not in printed
    printed, error = document.communicate()
    assert (document.returncode, error) == (0, "")
    assert [row["name"] for row in json.loads(printed)] == sorted(ssia_zoo.weights())


def test_the_version_is_printed(capsys: Captured) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ssia-zoo {ssia_zoo.__version__}\n"
