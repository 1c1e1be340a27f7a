"""Fairness is asserted from the records: what differs is unfair, what an old record lacks is unknown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ssia_zoo.arena.fairness import Fairness, check_fairness
from ssia_zoo.arena.results import read_results
from tests.arena.plans import CONTENT, by_key, plan, write_records

START = {"initial_weights": "a", "data_order": "b", "train_images": "c", "eval_images": "d"}


def fairness(folder: Path, change: dict[str, Any], **plan_changes: Any) -> Fairness:
    """Check records of which those of ssia with seed 1 are changed."""
    found = plan(folder, **plan_changes)
    records = by_key(found, lambda cell: 50.0, fingerprint=START)
    for record in records.values():
        if record["method"] == "ssia" and record["seed"] == 1:
            record.update({name: value for name, value in change.items() if name != "fingerprint"})
            record["fingerprint"] = {**START, **change["fingerprint"]} if "fingerprint" in change else START
            if change.get("fingerprint") == {}:
                del record["fingerprint"]
    return check_fairness(read_results(found, write_records(folder / "records.jsonl", records)))


def test_runs_that_begin_alike_are_fair(tmp_path: Path) -> None:
    found = fairness(tmp_path, {})
    assert (found.faults, found.compared, found.unknown) == ((), 2, 0)
    assert found.summary.startswith("the same budget for all methods; the same initial weights, images and order")
    assert "2 of 2" in found.summary


def test_old_records_count_as_not_recorded(tmp_path: Path) -> None:
    found = fairness(tmp_path, {"fingerprint": {}})
    assert (found.faults, found.compared, found.unknown) == ((), 2, 1)
    assert found.summary.endswith("asserted in 1 of 2 groups of paired runs, in the others not recorded")


@pytest.mark.parametrize("name", sorted(START))
def test_another_start_is_unfair(name: str, tmp_path: Path) -> None:
    found = fairness(tmp_path, {"fingerprint": {name: "other"}})
    assert found.faults == (f"digits5, test_resnet, seed 1: {name} is other for ssia, and {START[name]} for vanilla",)
    assert found.summary.startswith("unfair")


def test_other_versions_are_noted(tmp_path: Path) -> None:
    found = fairness(tmp_path, {"environment": {"torch": "2", "accelerate": "2.0"}})
    assert found.notes == ("digits5, test_resnet: accelerate differs between methods: 2.0, None",)


def test_another_number_of_steps_is_unfair(tmp_path: Path) -> None:
    assert fairness(tmp_path, {"steps": 6}).faults == (
        "digits5, test_resnet, seed 1: steps is 6 for ssia, and 5 for vanilla",
    )


def test_a_method_must_not_change_the_budget(tmp_path: Path) -> None:
    methods = {"vanilla": {"method": "vanilla"}, "ssia": {"method": "ssia", "epochs": 2}}
    faults = fairness(tmp_path, {}, methods=methods).faults
    assert faults == tuple(
        f"digits5, test_resnet, seed {seed}: epochs is 2 for ssia, and 1 for vanilla" for seed in (0, 1)
    )


def test_a_method_may_change_the_learning_rate_which_is_noted(tmp_path: Path) -> None:
    methods = {"vanilla": {"method": "vanilla"}, "ssia": {"method": "ssia", "lr": 0.1}}
    found = fairness(tmp_path, {}, methods=methods)
    assert not found.faults
    assert found.notes == ("digits5, test_resnet: lr is part of the method: ssia",)


def test_a_method_that_changes_the_network_cannot_share_its_weights(tmp_path: Path) -> None:
    methods = {"vanilla": {"method": "vanilla"}, "ssia": {"method": "vanilla", "model_kwargs": {"depths": [1]}}}
    found = fairness(tmp_path, {"fingerprint": {"initial_weights": "x"}}, methods=methods)
    assert not found.faults
    assert found.notes == ("digits5, test_resnet: methods change the network, so not all share initial weights",)


def test_a_test_split_that_was_read_during_training_is_unfair(tmp_path: Path) -> None:
    common = {**CONTENT["common"], "val_interval": 1}
    found = fairness(tmp_path, {}, common=common, evaluate="test")
    assert "seed 0: vanilla read the test split during training (val_interval is not 0)" in found.faults[0]
    assert not fairness(tmp_path, {}, evaluate="test").faults
