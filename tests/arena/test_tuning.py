"""Tuning: the tries come first, the best one runs on the test split, and the choice depends on validation alone."""

from __future__ import annotations

from pathlib import Path

from ssia_zoo.arena.tuning import choices, schedule
from tests.arena.plans import TUNE, plan, record


def test_before_the_tries_have_run_a_tuned_method_is_undecided(tmp_path: Path) -> None:
    tuned = plan(tmp_path, evaluate="test", tune=TUNE)
    found = schedule(tuned, {})
    assert [(cell.settings["ssia"], cell.seed, cell.settings["eval_split"]) for cell in found.tries] == [
        ({"weight": 0.5}, 100, "validation"),
        ({"weight": 2.0}, 100, "validation"),
    ]
    assert {cell.method for cell in found.cells} == {"vanilla"}
    assert [(cell.method, cell.seed) for cell in found.undecided] == [("ssia", 0), ("ssia", 1)]
    pending = list(found.pending({}))
    assert pending[:2] == list(found.tries), "the tries run first"
    assert len(pending) == 4


def test_the_best_try_runs_on_the_test_split_and_the_choice_is_recorded(tmp_path: Path) -> None:
    tuned = plan(tmp_path, evaluate="test", tune=TUNE)
    first, second = schedule(tuned, {}).tries
    records = {first.key: record(first, 60.0), second.key: record(second, 61.0)}
    found = schedule(tuned, records)
    assert not found.undecided
    chosen = [cell for cell in found.cells if cell.method == "ssia"]
    assert [(cell.settings["ssia"], cell.settings["eval_split"]) for cell in chosen] == [({"weight": 2.0}, "test")] * 2
    assert chosen[0].tuned == {
        "tries": 2,
        "chosen": {"ssia": {"weight": 2.0}},
        "tried": [{"ssia": {"weight": 0.5}}, {"ssia": {"weight": 2.0}}],
        "scores": [[60.0], [61.0]],
    }
    assert list(found.pending(records)) == list(found.cells)


def test_of_equal_tries_the_first_is_chosen_and_seeds_count_by_their_mean(tmp_path: Path) -> None:
    tuned = plan(tmp_path, evaluate="test", tune={**TUNE, "seeds": [100, 101]})
    tries = schedule(tuned, {}).tries
    scores = {(0.5, 100): 50.0, (0.5, 101): 54.0, (2.0, 100): 53.0, (2.0, 101): 51.0}
    records = {cell.key: record(cell, scores[cell.settings["ssia"]["weight"], cell.seed]) for cell in tries}
    (choice,) = choices(tuned, records)
    assert choice.chosen == 0
    assert choices(tuned, {tries[0].key: records[tries[0].key]})[0].chosen is None
