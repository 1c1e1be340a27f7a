"""Fine-tuning of a weight and its control: same settings, recorded once, reported in a table."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from ssia_zoo.arena.plan import read_plan
from ssia_zoo.arena.tuning import schedule
from ssia_zoo.training import TrainConfig, train
from tests.arena.plans import write_plan
from tests.benchmarks.scripts import load_script


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "test_resnet_ssia.digits_r32"
    for method in ("ssia", "vanilla"):
        AcceleratorState._reset_state(reset_partial_state=True)
        train(
            TrainConfig(
                model="test_resnet",
                dataset="digits",
                method=method,
                image_size=32,
                epochs=1,
                batch_size=16,
                workers=0,
                max_train_images=64,
                output_dir=str(folder / f"{method}_seed0"),
            )
        )
    return folder


@pytest.mark.slow
def test_a_pair_is_fine_tuned_with_the_same_settings_recorded_once_and_reported(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finetune = load_script("finetune")
    page = tmp_path / "accuracy.md"
    page.write_text("before\n<!-- finetune: begin -->\nold\n<!-- finetune: end -->\nafter\n", encoding="utf-8")
    monkeypatch.setattr(finetune, "RECORDS", tmp_path / "finetune.jsonl")
    monkeypatch.setattr(finetune, "REPORT", page)
    arguments = finetune.Run(
        weights, "digits", seeds=(0, 1), epochs=1, max_train_images=64, probe_images=100, work=tmp_path / "work"
    )
    AcceleratorState._reset_state(reset_partial_state=True)
    finetune.run(arguments)

    records = finetune.read_results(finetune.RECORDS)
    assert {(r["method"], r["seed"], r["how"]) for r in records} == {
        (method, seed, how) for method in ("ssia", "vanilla") for seed in (0, 1) for how in ("probe", "whole")
    }
    assert all(r["settings"]["method"] == "vanilla" for r in records)
    by_method = {m: [dict(r["settings"]) for r in records if r["method"] == m] for m in ("ssia", "vanilla")}
    for ssia, vanilla in zip(*by_method.values(), strict=True):
        assert ssia.pop("model") != vanilla.pop("model")
        assert ssia == vanilla
    probes = [r["top1"] for r in records if r["how"] == "probe"]
    assert min(probes) > 50  # 100 digits suffice for that with any features

    finetune.run(arguments)
    assert finetune.read_results(finetune.RECORDS) == records
    finetune.report()
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    mean = sum(r["top1"] for r in records if (r["method"], r["how"]) == ("ssia", "whole")) / 2
    assert f"| digits | the whole network | SSIA | {mean:.2f} |" in text
    assert "| 1 × 2 |" in text


def test_the_models_that_a_plan_kept_are_probed(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finetune = load_script("finetune")
    monkeypatch.setattr(finetune, "RECORDS", tmp_path / "finetune.jsonl")
    path = write_plan(tmp_path, methods={"vanilla": {"method": "vanilla"}, "form": {"method": "ssia"}})
    kept = {(cell.method, cell.seed): cell.key for cell in schedule(read_plan(path), {}).cells}
    for method, names in (("vanilla", ("vanilla", 0)), ("ssia", ("form", 0))):
        shutil.copytree(weights / f"{method}_seed0", tmp_path / "models" / kept[names])
    where = {"models": tmp_path / "models", "work": tmp_path / "work"}
    arguments = finetune.Run(path, "digits", how=("probe",), seeds=(0,), probe_images=100, **where)
    finetune.run(arguments)
    assert f"2 of the 4 models of {path} are in" in capsys.readouterr().out
    found = [
        (r["weights"], r["method"], r["pretraining_seed"], r["how"]) for r in finetune.read_results(finetune.RECORDS)
    ]
    assert found == [(path.stem, "vanilla", 0, "probe"), (path.stem, "form", 0, "probe")]


def test_several_pairs_of_weights_are_compared_by_their_means_over_the_seeds_of_fine_tuning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finetune = load_script("finetune")
    page = tmp_path / "accuracy.md"
    page.write_text("<!-- finetune: begin -->\n<!-- finetune: end -->\n", encoding="utf-8")
    monkeypatch.setattr(finetune, "RECORDS", tmp_path / "finetune.jsonl")
    monkeypatch.setattr(finetune, "REPORT", page)
    about = {"weights": "plan", "dataset": "digits", "how": "probe"}
    for pair, difference in enumerate((1.0, 2.0, 3.0)):
        for seed in range(2 if pair == 2 else 3):
            for method, gain in (("vanilla", 0.0), ("form", difference)):
                record = {"method": method, "pretraining_seed": pair, "seed": seed, "top1": 50 + 10 * seed + gain}
                finetune.append_record(finetune.RECORDS, {**about, **record})
    finetune.report()
    # The mean of three differences with standard deviation 1: 4.303 / sqrt(3) = 2.48 on both sides.
    assert "| +2.00 | -0.48 to +4.48 | 3 × 2 to 3 |" in page.read_text(encoding="utf-8")
