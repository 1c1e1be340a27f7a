"""Plans: runs are paired and identified by their settings, and a wrong plan is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ssia_zoo.arena.plan import read_plan, settings_key
from ssia_zoo.arena.records import read_records
from ssia_zoo.errors import ConfigError
from tests.arena.plans import CONTENT, TUNE, plan, write_plan

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
DIGITS = CONTENT["data"]["digits5"]


def test_runs_of_one_seed_differ_in_the_method_alone_and_every_run_has_its_own_key(tmp_path: Path) -> None:
    cells = list(plan(tmp_path).all_cells())
    assert len({cell.key for cell in cells}) == len(cells) == 4
    vanilla, ssia = cells[:2]
    assert vanilla.seed == ssia.seed == 0
    assert {**vanilla.settings, "method": "ssia"} == ssia.settings
    assert vanilla.subset == ssia.subset


def test_a_plan_may_choose_among_the_pairs_of_data_and_architecture(tmp_path: Path) -> None:
    chosen = plan(tmp_path, data={**CONTENT["data"], "more": DIGITS}, cells=[["more", "test_resnet"]])
    assert {(cell.data, cell.arch) for cell in chosen.all_cells()} == {("more", "test_resnet")}
    assert len(list(chosen.all_cells())) == 4


def test_groups_of_settings_are_merged_so_that_a_method_may_add_to_an_architecture(tmp_path: Path) -> None:
    found = plan(
        tmp_path,
        archs={"narrow": {"model": "resnet18", "model_kwargs": {"channels": [8, 8, 8, 8]}}},
        methods={"SE": {"method": "vanilla", "model_kwargs": {"block_args": {"attn_layer": "se"}}}},
    )
    settings = next(found.all_cells()).settings
    assert settings["model_kwargs"] == {"channels": [8, 8, 8, 8], "block_args": {"attn_layer": "se"}}
    assert "block_args" not in found.archs["narrow"]["model_kwargs"], "the plan stays as it is"


def test_a_regime_replaces_images_and_settings_of_every_cell(tmp_path: Path) -> None:
    regimes = {"few": {"data": {"train_per_class": 4}}, "long": {"settings": {"epochs": 9}}}
    cells = list(plan(tmp_path, seeds=[0], regimes=regimes).all_cells())
    found = [(c.data, c.subset["train_per_class"], c.settings["epochs"]) for c in cells if c.method == "ssia"]
    assert found == [("digits5, few", 4, 1), ("digits5, long", 8, 9)]


def test_the_keys_of_all_recorded_runs_are_the_hashes_of_their_settings() -> None:
    records = read_records(BENCHMARKS / "results" / "accuracy.jsonl")
    assert len(records) > 200
    assert {key for key, r in records.items() if settings_key(r["subset"], r["settings"]) != key} == set()


def test_plans_of_the_repository_give_the_keys_under_which_their_runs_are_recorded() -> None:
    plans = [read_plan(path) for path in sorted((BENCHMARKS / "plans").glob("*.yaml"))]
    planned = {cell.key for found in plans for cell in found.all_cells()}
    records = read_records(BENCHMARKS / "results" / "accuracy.jsonl")
    names = {found.name for found in plans}
    in_plans = [key for key, record in records.items() if record["plan"] in names]
    assert len([key for key in in_plans if key in planned]) > 0.95 * len(in_plans)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sedes": [1]}, "'sedes' is not a setting; did you mean seeds?"),
        ({"methods": None}, "'methods' is missing"),
        ({"evaluate": "tset"}, "'evaluate' is 'tset'; expected 'validation' or 'test'"),
        ({"seeds": []}, "seeds is empty; expected at least one"),
        ({"seeds": [1, 1]}, "seeds holds a value twice: [1, 1]"),
        (
            {"data": {"d": {**DIGITS, "train_per_clas": 1}}},
            "data, d: 'train_per_clas' is not a key; did you mean",
        ),
        ({"data": {"d": {"classes": 2}}}, "data, d: dataset is missing; expected a folder"),
        ({"data": {"d": {**DIGITS, "classes": 0}}}, "data, d: classes is 0; expected a number of at least 1"),
        ({"data": {"d": {**DIGITS, "exchanged": 20}}}, "data, d: exchanged is 20; expected a fraction of the labels"),
        ({"data": {"d": {**DIGITS, "exchanged": "0.2"}}}, "data, d: exchanged is '0.2'; expected a fraction"),
        (
            {"data": {"d": {"dataset": "digits", "train_per_class": 9}}},
            "d, test_resnet: train_per_class and",
        ),
        ({"data": {"d": {"dataset": "digits", "validation_per_class": 9}}}, "validation_per_class require each other"),
        (
            {"data": {"d": {"dataset": "digits"}}, "regimes": {"few": {"data": {"train_per_class": 2}}}},
            "data, d, test_resnet, few: train_per_class and validation_per_class require each other",
        ),
        ({"cells": [["digits5", "test_resnt"]]}, "'test_resnt' is not in archs; did you mean test_resnet?"),
        ({"cells": [["digits5"]]}, "cells, ['digits5']: expected 2 names, of data, archs"),
        ({"control": "vanila"}, "control: 'vanila' is not in methods; did you mean vanilla?"),
        ({"tune": TUNE}, "tune chooses on validation and reports on test; set evaluate to test"),
        ({"tune": {**TUNE, "seeds": [0]}, "evaluate": "test"}, "seeds [0] are seeds of the plan too"),
        (
            {"tune": {"tries": {"ssia": [{}, {}], "vanilla": [{}]}}, "evaluate": "test"},
            "expected the same number for each method, at least 1, and a seed; got {'ssia': 2, 'vanilla': 1}",
        ),
        ({"tune": {"tries": {"sia": [{}]}}, "evaluate": "test"}, "'sia' is not in methods; did you mean ssia?"),
    ],
)
def test_a_wrong_plan_is_refused_in_one_line(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write_plan(tmp_path, **changes)
    with pytest.raises(ConfigError) as caught:
        read_plan(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert "`" not in str(caught.value), "the command line would take the key for a flag"


@pytest.mark.parametrize(
    ("text", "message"),
    [("- a", "expected a mapping"), ("a: [", "is not valid YAML"), ("name: x", "name is not a key of a plan")],
)
def test_a_file_that_is_no_plan_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_plan(tmp_path / "p.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_plan(tmp_path / "none.yaml")
