"""docs/training_features.md names flags and tests that exist."""

from __future__ import annotations

import re

import pytest

from ssia_zoo.training.arguments import parse_config
from tests.helpers.runs import ROOT

ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in (ROOT / "docs" / "training_features.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("| feature")
]


def test_the_table_is_read() -> None:
    assert len(ROWS) > 30
    assert {len(row) for row in ROWS} == {5}


def test_every_flag_of_the_table_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_config(["--help"])
    text = capsys.readouterr().out
    flags = {flag for row in ROWS for flag in re.findall(r"`(--[a-z-]+)[ `]", row[2])}
    assert len(flags) > 40
    assert not {flag for flag in flags if not re.search(rf"{flag}\b(?!-)", text)}


def test_every_test_of_the_table_exists_and_only_what_is_left_out_has_none() -> None:
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    for feature, _, flags, state, tests in ROWS:
        for name in re.findall(r"`(\w+)`", tests):
            assert f"def {name}(" in sources, name
        assert bool(tests) == (flags != "–"), feature
        assert flags != "–" or "left out" in state or "as with timm" in state, feature
