"""`ssia-zoo check-loss`."""

from __future__ import annotations

import json

import pytest

from ssia_zoo.cli.main import main
from tests.helpers.commands import Captured


def test_a_loss_that_keeps_the_contract_is_reported_clause_by_clause(capsys: Captured) -> None:
    assert main(["check-loss", "tests.helpers.broken_losses:Good", "--method-kwargs", "temperature=2.0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "construction  ok"
    assert lines[-1] == "tests.helpers.broken_losses:Good: all clauses kept"


def test_a_broken_clause_fails_the_command(capsys: Captured) -> None:
    assert main(["check-loss", "tests.helpers.broken_losses:SumOverImages", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert not document["passed"]
    assert "means over images" in document["clauses"]["images"]
    assert document["clauses"]["construction"] is None


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        (["nowhere:Loss"], 1, "error: --method nowhere:Loss: no module nowhere; expected package.module:Class"),
        (["dsm"], 1, "did you mean dsn?"),
        (["ssia"], 2, "expected a class or a rival"),
        (["dsn", "--method-kwargs", "hidden"], 2, "--method-kwargs hidden: expected key=value"),
        (["dsn", "--method-kwargs", "hiden=3"], 1, "--method-kwargs hiden: is not a setting of ssia_zoo.loss.dsn:DSN"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_checked_gets_one_line(
    arguments: list[str], status: int, expected: str, capsys: Captured
) -> None:
    assert main(["check-loss", *arguments]) == status
    printed = capsys.readouterr()
    assert printed.out == ""
    assert expected in printed.err
    assert len(printed.err.splitlines()) == 1
