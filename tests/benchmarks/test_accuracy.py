"""Comparison of methods: runs are paired, identified by their settings, trained by train_hf.py and not run twice."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import pytest
import timm
import yaml

import ssia_zoo
from ssia_zoo.data import digits
from tests.benchmarks.scripts import load_script

PLAN: dict[str, Any] = {
    "evaluate": "validation",
    "seeds": [0, 1],
    "common": {"image_size": 32, "epochs": 1, "batch_size": 16, "workers": 0, "val_interval": 0},
    "data": {"digits5": {"dataset": "digits", "classes": 5, "train_per_class": 8, "validation_per_class": 4}},
    "archs": {"test_resnet": {"model": "test_resnet"}},
    "methods": {"vanilla": {"method": "vanilla"}, "ssia": {"method": "ssia"}},
}
TRAINED: dict[str, Any] = {"settings": {"model": "test_resnet", "image_size": 32}, "subset": {"classes": 5}}


@pytest.fixture
def accuracy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script with its results in a temporary folder, and digits as parquet."""
    module = load_script("accuracy")
    monkeypatch.setattr(module, "RESULTS", tmp_path / "accuracy.jsonl")
    for name, rows in digits().items():
        rows.to_parquet(str(tmp_path / "digits" / f"{name}.parquet"))
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(PLAN), encoding="utf-8")
    return module


def test_runs_of_one_seed_differ_in_the_method_alone_and_every_run_has_its_own_key(accuracy: ModuleType) -> None:
    cells = list(accuracy.cells(PLAN))
    assert len({cell.key for cell in cells}) == len(cells) == 4
    vanilla, ssia = cells[:2]
    assert vanilla.seed == ssia.seed == 0
    assert {**vanilla.settings, "method": "ssia"} == ssia.settings
    assert vanilla.subset == ssia.subset


def test_a_plan_may_choose_among_the_pairs_of_data_and_architecture(accuracy: ModuleType) -> None:
    plan = {**PLAN, "data": {**PLAN["data"], "more": PLAN["data"]["digits5"]}, "cells": [["more", "test_resnet"]]}
    assert {(cell.data, cell.arch) for cell in accuracy.cells(plan)} == {("more", "test_resnet")}
    assert len(list(accuracy.cells(plan))) == 4


def test_groups_of_settings_are_merged_so_that_a_method_may_add_to_an_architecture(accuracy: ModuleType) -> None:
    plan = {
        **PLAN,
        "archs": {"narrow": {"model": "resnet18", "model_kwargs": {"channels": [8, 8, 8, 8]}}},
        "methods": {"SE": {"method": "vanilla", "model_kwargs": {"block_args": {"attn_layer": "se"}}}},
    }
    settings = next(accuracy.cells(plan)).settings
    assert settings["model_kwargs"] == {"channels": [8, 8, 8, 8], "block_args": {"attn_layer": "se"}}
    assert "block_args" not in plan["archs"]["narrow"]["model_kwargs"], "the plan stays as it is"


def test_a_subset_keeps_classes_and_shares_no_image_between_training_and_validation(
    accuracy: ModuleType, tmp_path: Path
) -> None:
    accuracy.make_subset(tmp_path / "digits", PLAN["data"]["digits5"], tmp_path / "subset")
    splits = datasets.load_dataset(str(tmp_path / "subset"), cache_dir=str(tmp_path / "cache"))
    kept = {int(name) for name in splits["train"].features["label"].names}
    official = sum(label in kept for label in digits()["test"]["label"])
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 40, "validation": 20, "test": official}
    names = splits["train"].features["label"].names
    assert len(names) == 5
    for part, count in (("train", 8), ("validation", 4)):
        assert all(list(splits[part]["label"]).count(label) == count for label in range(5))
    seen = [{image["bytes"] for image in _raw(splits[part])} for part in ("train", "validation")]
    assert not seen[0] & seen[1]
    original = {image["bytes"]: label for image, label in zip(*_labelled(digits()["train"]), strict=True)}
    for image, label in zip(*_labelled(splits["train"]), strict=True):
        assert names[label] == str(original[image["bytes"]]), "a kept image keeps its class"


def _raw(rows: datasets.Dataset) -> list[dict[str, Any]]:
    return list(rows.cast_column("image", datasets.Image(decode=False))["image"])


def _labelled(rows: datasets.Dataset) -> tuple[list[dict[str, Any]], list[int]]:
    return _raw(rows), list(rows["label"])


@pytest.mark.slow
def test_a_plan_runs_once_and_goes_on_where_it_stopped(
    accuracy: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = {**PLAN, "seeds": [0]}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan), encoding="utf-8")
    arguments = accuracy.Run(tmp_path / "plan.yaml", data_root=tmp_path, work=tmp_path / "work")
    accuracy.run(arguments)
    first = sorted(accuracy.read_results(accuracy.RESULTS), key=lambda r: r["method"])
    described = [(r["method"], r["seed"], r["evaluated_on"], r["images"]) for r in first]
    assert described == [("ssia", 0, "validation", 20), ("vanilla", 0, "validation", 20)]
    assert str(tmp_path) not in json.dumps(first), "results say nothing of the machine's folders"
    accuracy.RESULTS.write_text(json.dumps(first[0]) + "\n", encoding="utf-8")
    capsys.readouterr()
    accuracy.run(arguments)
    again = accuracy.read_results(accuracy.RESULTS)
    assert len(capsys.readouterr().out.splitlines()) == 1, "only the missing run is made"
    assert {k: v for k, v in again[1].items() if k != "seconds"} == {
        k: v for k, v in first[1].items() if k != "seconds"
    }, "the same settings give the same result"


def test_the_report_shows_every_seed_and_the_paired_difference(
    accuracy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = load_script("accuracy_report")
    scores = {"vanilla": (50.0, 52.0, 54.0), "ssia": (51.0, 54.0, 57.0)}
    about = {"data": "d", "arch": "a", "evaluated_on": "test", "images": 100, "train_task_loss": 1.0, **TRAINED}
    results = [
        {**about, "method": m, "seed": s, "top1": top1} for m, runs in scores.items() for s, top1 in enumerate(runs)
    ]
    monkeypatch.setattr(report, "REPORT", tmp_path / "accuracy.md")
    monkeypatch.setattr(report, "IMAGES", tmp_path)
    report.REPORT.write_text("before\n<!-- accuracy: begin -->\nold\n<!-- accuracy: end -->\nafter\n", encoding="utf-8")
    report.write_report({"p": results, "not yet run": []})
    text = report.REPORT.read_text(encoding="utf-8")
    assert "MFLOPs | 54.00 | 51.00 / 54.00 / 57.00 | +2.00 | -0.48 to +4.48 |" in text
    assert "![paired differences of p](images/accuracy_p.png)" in text
    assert "old" not in text
    assert "not yet run" not in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert (tmp_path / "accuracy_p.png").stat().st_size > 1000


def test_a_run_counts_in_every_plan_that_holds_it(
    accuracy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accuracy, "PLANS", tmp_path / "plans")
    accuracy.PLANS.mkdir()
    other = {**PLAN, "seeds": [1], "methods": {"control": {"method": "vanilla"}}}
    for name, plan in (("first", PLAN), ("other", other)):
        (accuracy.PLANS / f"{name}.yaml").write_text(yaml.safe_dump(plan), encoding="utf-8")
    recorded = [{"plan": "first", "method": cell.method, "key": cell.key, "top1": 1.0} for cell in accuracy.cells(PLAN)]
    accuracy.RESULTS.write_text("".join(json.dumps(line) + "\n" for line in recorded), encoding="utf-8")
    found = accuracy.results_by_plan()
    assert len(found["first"]) == 4
    assert [(r["method"], r["key"]) for r in found["other"]] == [("control", recorded[2]["key"])]
    assert list(found) == ["first", "other"]
    (accuracy.PLANS / "first.yaml").unlink()
    left = accuracy.results_by_plan()["first, removed from the plan"]
    assert {r["key"] for r in left} == {recorded[i]["key"] for i in (0, 1, 3)}


def test_the_weights_runs_are_those_that_their_entries_state(accuracy: ModuleType) -> None:
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


def test_over_several_cells_the_report_counts_each_once() -> None:
    report = load_script("accuracy_report")
    about = {"evaluated_on": "test", "images": 100, "train_task_loss": 1.0, "arch": "a", **TRAINED}
    gains = {"c10": (1.0, 2.0, 3.0, 2.0), "tin": (-1.0, 1.0), "digits": (1.0,)}  # means 2, 0, 1
    runs = [
        {**about, "data": data, "method": method, "seed": seed, "top1": 50.0 + gain * (method == "ssia")}
        for data, of_seeds in gains.items()
        for seed, gain in enumerate(of_seeds)
        for method in ("vanilla", "ssia")
    ]
    alone = {**about, "data": "tin", "method": "dsn", "seed": 7, "top1": 60.0}  # of a seed without a control
    text = report.section("p", [*runs, alone])
    # 1.0 +- 4.3027 (t of 2 degrees of freedom) * 1.0 (standard deviation) / sqrt(3)
    assert "| ssia | 3 | 7 | +1.00 | -1.48 to +3.48 | 2 |" in text
    assert "| dsn | 1" not in text


def test_a_smoothed_loss_is_not_held_against_others() -> None:
    report = load_script("accuracy_report")
    run = {"seed": 0, "top1": 50.0, "train_task_loss": 1.25, **TRAINED}
    smoothed = {**run, "settings": {**TRAINED["settings"], "smoothing": 0.1}}
    group = {"vanilla": {0: run}, "label smoothing": {0: smoothed}}
    assert report.row(group, "vanilla").endswith("| 1.250 |")
    assert report.row(group, "label smoothing").endswith("| – |")


def test_the_report_says_what_a_method_costs_at_inference() -> None:
    report = load_script("accuracy_report")
    settings = {"model": "resnet18", "image_size": 32, "model_kwargs": {"channels": [8, 16, 32, 64]}}
    se = {**settings, "model_kwargs": {**settings["model_kwargs"], "block_args": {"attn_layer": "se"}}}
    costs = {}
    for name, given in (("vanilla", settings), ("ssia", {**settings, "ssia": {"hidden": 64}}), ("se", se)):
        model = timm.create_model("resnet18", num_classes=5, **given["model_kwargs"])
        costs[name] = report.inference_cost({"settings": given, "subset": {"classes": 5}})
        assert costs[name].startswith(f"{sum(p.numel() for p in model.parameters()) / 1e6:.3f} M, ")
    assert costs["ssia"] == costs["vanilla"] != costs["se"]
