"""Reports: every seed, paired differences, corrections, cost, and what is missing, as tables, CSV and plots."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm

from ssia_zoo.arena.leaderboard import leaderboard
from ssia_zoo.arena.records import answers_path, record_failure
from ssia_zoo.arena.report import replace_between, write_report
from ssia_zoo.arena.results import read_results
from ssia_zoo.arena.tables import inference_cost, section
from ssia_zoo.errors import ConfigError
from ssia_zoo.evaluation.answers import Answers, write_answers
from tests.arena.plans import by_key, plan, write_records

TRAINED: dict[str, Any] = {"settings": {"model": "test_resnet", "image_size": 32}, "subset": {"classes": 5}}
SCORES = {"vanilla": (50.0, 52.0, 54.0), "ssia": (51.0, 54.0, 57.0), "dsn": (50.5, 52.4, 54.6)}
METHODS = {name: {"method": name} for name in SCORES}


def runs(scores: dict[str, tuple[float, ...]]) -> list[dict[str, Any]]:
    about = {"data": "d", "arch": "a", "evaluated_on": "test", "images": 100, "train_task_loss": 1.0, **TRAINED}
    return [
        {**about, "method": m, "seed": s, "top1": top1} for m, found in scores.items() for s, top1 in enumerate(found)
    ]


def test_a_table_shows_every_seed_and_the_paired_difference() -> None:
    text = section("p", runs({name: SCORES[name] for name in ("vanilla", "ssia")}))
    assert "MFLOPs | 54.00 | 51.00 / 54.00 / 57.00 | +2.00 | -0.48 to +4.48 | 0.074 |" in text


def test_p_values_are_corrected_for_the_methods_of_the_cell() -> None:
    text = section("p", runs(SCORES))
    assert "| +2.00 | -0.48 to +4.48 | 0.074 |" in text  # the largest p-value keeps its value
    assert "| +0.50 | +0.25 to +0.75 | 0.026 |" in text  # 0.0131 for one comparison


def test_columns_without_a_value_are_left_out_and_cost_is_shown_where_recorded() -> None:
    found = runs(SCORES)
    assert "memory" not in section("p", found)
    for run in found:
        run.update(memory_mb=1200, seconds=30.4, gradient_mb=46.8)
    text = section("p", found)
    assert "| method | at inference | time | memory | gradients | mean |" in text
    assert "| 30 s | 1200 MB | 46.80 MB |" in text


def test_over_several_cells_the_report_counts_each_once() -> None:
    about = {"evaluated_on": "test", "images": 100, "train_task_loss": 1.0, "arch": "a", **TRAINED}
    gains = {"c10": (1.0, 2.0, 3.0, 2.0), "tin": (-1.0, 1.0), "digits": (1.0,)}  # means 2, 0, 1
    found = [
        {**about, "data": data, "method": method, "seed": seed, "top1": 50.0 + gain * (method == "ssia")}
        for data, of_seeds in gains.items()
        for seed, gain in enumerate(of_seeds)
        for method in ("vanilla", "ssia")
    ]
    alone = {**about, "data": "tin", "method": "dsn", "seed": 7, "top1": 60.0}  # of a seed without a control
    text = section("p", [*found, alone])
    # 1.0 +- 4.3027 (t of 2 degrees of freedom) * 1.0 (standard deviation) / sqrt(3)
    assert "| ssia | 3 | 7 | +1.00 | -1.48 to +3.48 | 2 |" in text
    assert "| dsn | 1" not in text


def test_a_smoothed_loss_is_not_held_against_others() -> None:
    found = runs({"vanilla": (50.0,), "label smoothing": (50.0,)})
    found[1]["settings"] = {**TRAINED["settings"], "smoothing": 0.1}
    vanilla, smoothed = [line for line in section("p", found).splitlines() if "50.00 |" in line]
    assert vanilla.endswith("| 1.000 |")
    assert smoothed.endswith("| – |")


def test_the_report_says_what_a_method_costs_at_inference() -> None:
    settings = {"model": "resnet18", "image_size": 32, "model_kwargs": {"channels": [8, 16, 32, 64]}}
    se = {**settings, "model_kwargs": {**settings["model_kwargs"], "block_args": {"attn_layer": "se"}}}
    costs = {}
    for name, given in (("vanilla", settings), ("ssia", {**settings, "ssia": {"hidden": 64}}), ("se", se)):
        model = timm.create_model("resnet18", num_classes=5, **given["model_kwargs"])
        costs[name] = inference_cost({"settings": given, "subset": {"classes": 5}})
        assert costs[name].startswith(f"{sum(p.numel() for p in model.parameters()) / 1e6:.3f} M, ")
    assert costs["ssia"] == costs["vanilla"] != costs["se"]
    grey = timm.create_model("test_resnet", num_classes=5, in_chans=1)
    found = inference_cost(
        {"settings": {"model": "test_resnet", "image_size": 32, "in_chans": 1}, "subset": {"classes": 5}}
    )
    assert found.startswith(f"{sum(p.numel() for p in grey.parameters()) / 1e6:.3f} M, ")


def test_a_network_of_one_image_size_is_measured_at_that_of_its_runs() -> None:
    settings = {"model": "test_vit", "image_size": 64}
    vit = timm.create_model("test_vit", num_classes=5, img_size=64)
    found = inference_cost({"settings": settings, "subset": {"classes": 5}})
    assert found.startswith(f"{sum(p.numel() for p in vit.parameters()) / 1e6:.3f} M, ")


def test_a_report_is_a_page_csv_files_and_plots_and_lists_what_is_missing(tmp_path: Path) -> None:
    found = plan(tmp_path, seeds=[0, 1, 2, 3], methods=METHODS, evaluate="test")
    records = by_key(found, lambda cell: (*SCORES[cell.method], 0.0)[cell.seed])
    absent = [cell for cell in found.all_cells() if cell.seed == 3]
    for cell in absent:
        del records[cell.key]
    path = write_records(tmp_path / "records.jsonl", records)
    record_failure(path, absent[0].key, absent[0].title, "loss is not finite")
    results = read_results(found, path)
    files = write_report([results], tmp_path / "report")
    assert [file.name for file in files] == ["report.md", "runs.csv", "comparisons.csv", "plan.png"]
    page = files[0].read_text(encoding="utf-8")
    assert "Missing: 3 runs." in page
    assert "- digits5, test_resnet, vanilla, seed 3: failed: loss is not finite" in page
    assert "- digits5, test_resnet, ssia, seed 3: not run" in page
    assert "in the others not recorded" in page
    assert "![paired differences of plan](plan.png)" in page
    rows = list(csv.DictReader(files[1].open(encoding="utf-8")))
    assert [(row["method"], row["seed"], row["top1"]) for row in rows[:2]] == [
        ("vanilla", "0", "50.0"),
        ("ssia", "0", "51.0"),
    ]
    (ssia, dsn) = csv.DictReader(files[2].open(encoding="utf-8"))
    assert absent[0].method == "vanilla", "a failed control leaves its seed out of every comparison"
    assert {(row["verdict"], row["failed"]) for row in (ssia, dsn)} == {("incomplete: 1 failed", "1")}
    assert float(dsn["p_holm"]) == pytest.approx(0.0262, abs=1e-4)
    assert files[3].stat().st_size > 1000


def answers(right: list[bool], digest: str = "d") -> Answers:
    count = len(right)
    flags = np.array(right)
    half = np.full(count, 0.5, dtype=np.float32)
    return Answers(
        class_names=("a", "b"),
        rows=np.arange(count),
        images=tuple(map(str, range(count))),
        labels=np.zeros(count, dtype=np.int64),
        predicted=(~flags).astype(np.int64),
        **{"label_probability": half, "predicted_probability": half, "loss": half},
        **{"in_top5": flags, "unreadable": 0, "digest": digest},
    )


def test_where_answers_are_kept_the_difference_has_an_interval_over_images(tmp_path: Path) -> None:
    found = plan(tmp_path, seeds=[0])
    path = write_records(tmp_path / "records.jsonl", by_key(found, lambda cell: 50.0))
    vanilla, ssia = found.all_cells()
    folder = answers_path(path, "").parent
    folder.mkdir()
    assert "over images" not in section("p", read_results(found, path).runs, records=path)
    write_answers(answers([True, False] * 50), answers_path(path, vanilla.key), compact=True)
    write_answers(answers([True, True, True, False] * 25), answers_path(path, ssia.key), compact=True)
    text = section("p", read_results(found, path).runs, records=path)
    assert "| over images |" in text
    assert "| +17.00 to +34.00 |" in text  # 25 points; normal theory: 25 +- 1.96 * 100 * sqrt(0.1875 / 100) = 8.5
    write_answers(answers([True] * 100, digest="other"), answers_path(path, ssia.key))
    assert "over images" not in section("p", read_results(found, path).runs, records=path)


def test_the_leaderboard_holds_null_results_and_final_comparisons_only(tmp_path: Path) -> None:
    found = plan(tmp_path, seeds=[0, 1, 2], methods=METHODS, evaluate="test")
    path = write_records(tmp_path / "r.jsonl", by_key(found, lambda cell: SCORES[cell.method][cell.seed]))
    search = plan(tmp_path, seeds=[0, 1, 2], methods=METHODS)
    other = write_records(tmp_path / "o.jsonl", by_key(search, lambda cell: SCORES[cell.method][cell.seed]))
    lines = leaderboard([read_results(found, path), read_results(search, other)])
    assert lines[0].startswith(
        "2 comparisons; 1 of them show a difference after Holm's correction, 1 show none, 0 have"
    )
    assert [line.split(" | ")[-1] for line in lines[4:]] == ["no difference shown |", "higher |"]
    more = plan(tmp_path, seeds=[0, 1, 2, 3], methods=METHODS, evaluate="test")
    (failed,) = [cell for cell in more.all_cells() if (cell.method, cell.seed) == ("dsn", 3)]
    record_failure(path, failed.key, failed.title, "loss is not finite")
    lines = leaderboard([read_results(more, path)])
    assert lines[0].endswith("0 have too few seeds. 1 incomplete.")
    assert [line.split(" | ")[-1] for line in lines[4:]] == ["no difference shown |", "incomplete: 1 failed |"]
    assert leaderboard([read_results(search, other)]) == ["No comparison on a test split is recorded yet."]


def test_a_page_without_marks_is_not_written(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- t: begin -->\nold\n<!-- t: end -->\nb\n", encoding="utf-8")
    replace_between(page, "t", ["new"])
    assert page.read_text(encoding="utf-8") == "a\n<!-- t: begin -->\nnew\n<!-- t: end -->\nb\n"
    page.write_text(page.read_text(encoding="utf-8") + "after <!-- t: end --> mine\n")
    with pytest.raises(ConfigError, match="expected <!-- t: begin -->"):
        replace_between(page, "t", ["newer"])
    assert page.read_text(encoding="utf-8").endswith("mine\n")
    with pytest.raises(ConfigError, match="expected <!-- leaderboard: begin -->"):
        replace_between(page, "leaderboard", ["new"])
    assert "new" in page.read_text(encoding="utf-8")
