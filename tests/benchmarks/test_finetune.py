"""Fine-tuning of a weight and its control: both alike, recorded once, told in a table."""

from __future__ import annotations

from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from ssia_zoo.training import TrainConfig, train
from tests.benchmarks.test_accuracy import BENCHMARKS, load


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


def test_a_pair_is_fine_tuned_alike_recorded_once_and_told(weights, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    finetune = load("finetune")
    docs = tmp_path / "accuracy.md"
    docs.write_text(f"before\n{finetune.START}\nold\n{finetune.END}\nafter\n", encoding="utf-8")
    monkeypatch.setattr(finetune, "RESULTS", tmp_path / "finetune.jsonl")
    monkeypatch.setattr(finetune, "DOCS", docs)
    arguments = finetune.Run(
        weights, "digits", seeds=(0, 1), epochs=1, max_train_images=64, probe_images=100, work=tmp_path / "work"
    )
    AcceleratorState._reset_state(reset_partial_state=True)
    finetune.run(arguments)

    records = finetune.read_results(finetune.RESULTS)
    assert {(r["method"], r["seed"], r["how"]) for r in records} == {
        (method, seed, how) for method in ("ssia", "vanilla") for seed in (0, 1) for how in ("probe", "whole")
    }
    assert all(r["settings"]["method"] == "vanilla" for r in records)
    by_method = {m: [dict(r["settings"]) for r in records if r["method"] == m] for m in ("ssia", "vanilla")}
    for ssia, vanilla in zip(*by_method.values(), strict=True):
        assert ssia.pop("model") != vanilla.pop("model")
        assert ssia == vanilla
    probes = [r["top1"] for r in records if r["how"] == "probe"]
    assert min(probes) > 50  # 100 digits suffice for that, whatever the network has learned

    finetune.run(arguments)
    assert finetune.read_results(finetune.RESULTS) == records
    finetune.report()
    text = docs.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    mean = sum(r["top1"] for r in records if (r["method"], r["how"]) == ("ssia", "whole")) / 2
    assert f"| digits | the whole network | {mean:.2f} |" in text
    assert "| 1 × 2 |" in text
