"""This repository's comparison of methods: its plans, records and pages."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

import ssia_zoo
from ssia_zoo.arena.plan import read_plan
from tests.arena.plans import record, write_plan
from tests.benchmarks.scripts import load_script

accuracy = load_script("accuracy")


@pytest.fixture
def own_plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script with plans and records in a temporary folder."""
    monkeypatch.setattr(accuracy, "RECORDS", tmp_path / "accuracy.jsonl")
    monkeypatch.setattr(accuracy, "PLANS", tmp_path / "plans")
    accuracy.PLANS.mkdir()
    return accuracy


def test_a_run_counts_in_every_plan_that_holds_it(own_plans: ModuleType) -> None:
    first = read_plan(write_plan(own_plans.PLANS, "first"))
    write_plan(own_plans.PLANS, "other", seeds=[1], methods={"control": {"method": "vanilla"}})
    recorded = [record(cell, 1.0, plan="first") for cell in first.all_cells()]
    own_plans.RECORDS.write_text("".join(json.dumps(line) + "\n" for line in recorded), encoding="utf-8")
    found = own_plans.results_by_plan(own_plans.all_results())
    assert len(found["first"]) == 4
    assert [(r["method"], r["key"]) for r in found["other"]] == [("control", recorded[2]["key"])]
    assert list(found) == ["first", "other"]
    (own_plans.PLANS / "first.yaml").unlink()
    left = own_plans.results_by_plan(own_plans.all_results())["first, removed from the plan"]
    assert {r["key"] for r in left} == {recorded[i]["key"] for i in (0, 1, 3)}


def test_a_page_holds_the_plans_that_have_runs(
    own_plans: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = load_script("accuracy_report")
    monkeypatch.setattr(report, "REPORT", tmp_path / "accuracy.md")
    monkeypatch.setattr(report, "IMAGES", tmp_path)
    report.REPORT.write_text("before\n<!-- accuracy: begin -->\nold\n<!-- accuracy: end -->\nafter\n", encoding="utf-8")
    cells = read_plan(write_plan(own_plans.PLANS, "p")).all_cells()
    report.write_report({"p": [record(cell, 50.0 + cell.seed) for cell in cells], "not yet run": []})
    text = report.REPORT.read_text(encoding="utf-8")
    assert "![paired differences of p](images/accuracy_p.png)" in text
    assert "old" not in text
    assert "not yet run" not in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert (tmp_path / "accuracy_p.png").stat().st_size > 1000


def test_the_weights_runs_are_those_that_their_entries_state() -> None:
    runs = accuracy.results_of_weights()
    weights = {name: w for name, w in ssia_zoo.weights().items() if (accuracy.WEIGHTS / f"{name}.jsonl").exists()}
    assert len(weights) >= 3
    for weight in weights.values():
        own = [r for r in runs if (r["arch"], r["data"]) == (weight.architecture, weight.tag)]
        for method, objective in (("ssia", "SSIA + DSN"), ("vanilla", "vanilla")):
            recorded = {r["seed"]: round(r["top1"], 2) for r in own if r["method"] == objective}
            assert recorded == {run.seed: getattr(run, method) for run in weight.metrics.runs}
        trained = [
            {k: v for k, v in r["settings"].items() if k not in ("method", "ssia", "rival", "seed")} for r in own
        ]
        assert all(settings == trained[0] for settings in trained), "equal but for the method"
