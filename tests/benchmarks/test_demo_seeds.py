"""Seeds of the demo: paired, recorded once, and quoted by the demo as they were recorded."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from ssia_zoo.cli.demo import RECORDED
from tests.benchmarks.scripts import load_script


@pytest.fixture
def script() -> ModuleType:
    return load_script("demo_seeds")


def test_the_demo_quotes_the_recorded_seeds(script: ModuleType) -> None:
    assert script.quoted() == RECORDED


def test_the_lab_book_has_the_recorded_seeds(script: ModuleType) -> None:
    text = (script.BENCHMARKS / "research.md").read_text(encoding="utf-8")
    assert "\n".join(script.table()) in text


def test_a_run_is_recorded_once_and_learns_from_wrong_labels(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "PATH", tmp_path / "demo.jsonl")
    monkeypatch.setitem(script.SETTINGS, "epochs", 1)
    for _ in range(2):
        script.run(script.Run(seeds=(3,), evaluate="validation", methods=("vanilla",)))
    (record,) = map(json.loads, script.PATH.read_text(encoding="utf-8").splitlines())
    assert (record["seed"], record["images"], record["train_images"], record["wrong_labels"]) == (3, 360, 1077, 359)
    assert script.results("validation") == {"vanilla": {3: record["top1"]}}
