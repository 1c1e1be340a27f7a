"""Several real processes train the weights that one trains, and SSIA adds only gradients to what they send."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import timm

from ssia_zoo.data import DataConfig
from ssia_zoo.evaluation.validate import validate
from ssia_zoo.loss.ssia import SSIAConfig
from ssia_zoo.task import SSIATask
from ssia_zoo.training.metrics import read_records
from tests.helpers.colours import write_mixed_colours
from tests.helpers.runs import ROOT, flags, run, same_weights, small_run, weights

SEVERAL = ROOT / "tests" / "helpers" / "several_runs.py"
STEPS = 5
GLOBAL_BATCH = 16
SGD = {
    "optimizer": "momentum",  # Adam would amplify the rounding of gradients that are zero
    "lr": 0.1,
    "warmup_epochs": 0,
    "schedule": "constant",
    "epochs": 1,
    "max_steps": STEPS,
}
# Without BatchNorm and dropout, which differ between processes, only the order of sums remains different.
RUNS: dict[str, dict[str, Any]] = {
    "vanilla": {"model": "test_vit", "method": "vanilla", "class_weights": "auto", **SGD},
    "ssia": {
        **{"model": "test_vit", "ssia.channel": 0.5, "ssia.spatial": 0.5, "ema": 0.8, "clip_grad": 1.0, **SGD},
        "balanced_sampling": True,  # not of "memory": an image twice in an accumulated step reads its first prediction
    },
    "memory": {
        **{"model": "test_vit", "ssia.supervisor": "memory", "ssia.top": True, "ssia.temperature": 1.0},
        **{**SGD, "epochs": 2, "max_steps": 10},  # the last 4 steps read the memory
    },
    "convnext": {"model": "test_convnext", **SGD},
    "several labels": {"model": "test_vit", "holdout": 0.25, "max_eval_images": 99, **SGD, "epochs": 3, "lr": 0.5},
}
"""Settings by name; several labels are those of mixed colours."""
NORMS = {"batch_size": 8, "max_eval_images": 41, "ema": 0.5}  # for test_resnet, which has BatchNorm
# An unsteady run, so that the last epoch is not the best.
BEST = {
    **{"batch_size": 8, "max_eval_images": 41, "holdout": 0.2, "max_train_images": 48, "epochs": 6, "lr": 0.02},
    **{"warmup_epochs": 0, "schedule": "constant", "method": "vanilla", "keep_best": True, "patience": 2},
    **{"keep_checkpoints": 9},
}


def in_processes(processes: int, folder: Path, runs: Sequence[dict[str, Any]], profiled: int = 0) -> None:
    """Train all runs in the same processes; collectives.json tells what the first ``profiled`` of them sent."""
    words = [json.dumps(flags(**settings)) for settings in runs]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    variables = {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "OMP_NUM_THREADS": "1",
        "COLLECTIVES": str(folder / "collectives.json"),
        "PROFILED": str(profiled),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        done = run(*launcher, SEVERAL, *words, timeout=580)
    assert done.returncode == 0, done.stderr[-3000:]


def layouts(processes: int) -> dict[str, dict[str, int]]:
    """Return the settings that give the same global batch."""
    each = GLOBAL_BATCH // processes
    return {
        "plain": {"batch_size": each, "accumulation_steps": 1},
        "accumulated": {"batch_size": each // 2, "accumulation_steps": 2},
    }


def runs_in_layouts(folder: Path, processes: int, names: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"output_dir": folder / f"{name}_{layout}", **sizes, **settings(name, folder)}
        for name in names
        for layout, sizes in layouts(processes).items()
    ]


def settings(name: str, folder: Path) -> dict[str, Any]:
    """Return the settings of a run, whose data are written into the folder if they are not digits."""
    if name != "several labels":
        return RUNS[name]
    photos = folder / "photos"
    if not photos.exists():
        write_mixed_colours(folder)
    return {"dataset": photos, "labels": folder / "labels.csv", **RUNS[name]}


def described(folder: Path) -> dict[str, Any]:
    written: dict[str, Any] = json.loads((folder / "config.json").read_text())["ssia"]
    return written


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    runs = runs_in_layouts(folder, 2, ["vanilla", "ssia", "memory", "several labels"])
    checkpoint = folder / "best" / "checkpoints" / "step_00000006"
    chosen = [{"output_dir": folder / "best", **BEST}, {"output_dir": folder / "again", "resume": checkpoint, **BEST}]
    in_processes(2, folder, [*runs, {"output_dir": folder / "norms", **NORMS}, *chosen], profiled=3)
    return folder


def assert_as_in_one_process(folder: Path, processes: int, name: str, settings: dict[str, Any]) -> None:
    """Compare a run's weights with those that one process trains on the same global batches.

    Sums of float32 gradients in another order differ by about 1e-6 relative, and training amplifies that. Gradients
    that are not averaged, divided or synchronized move weights by a different amount altogether. So the weights may
    differ by a thousandth of the distance that training moved them, plus 1e-6.
    """
    start, one = folder / f"{name}_start", folder / f"{name}_one"
    small_run(start, **{**settings, "lr": 1e-30, "max_steps": 1})
    small_run(one, batch_size=GLOBAL_BATCH, **settings)
    before, expected = weights(start), weights(one)
    moved = {key: float((expected[key] - before[key]).abs().max()) for key in expected}
    assert sum(distance > 1e-4 for distance in moved.values()) > len(moved) / 2, "there must be something to compare"
    for layout in layouts(processes):
        other = folder / f"{name}_{layout}"
        assert described(other)["environment"]["processes"] == str(processes), (
            "the run must have used several processes"
        )
        for key, actual in weights(other).items():
            off = float((actual - expected[key]).abs().max())
            assert off < 1e-3 * moved[key] + 1e-6, f"{name}, {layout}: {key} moved by {moved[key]}, is off by {off}"
        loss = described(one)["metrics"]["loss"]
        assert described(other)["metrics"]["loss"] == pytest.approx(loss, rel=1e-4), "each image is evaluated once"


@pytest.mark.parametrize("name", ["vanilla", "ssia", "memory", "several labels"])
def test_two_processes_train_the_weights_of_one(two_processes: Path, name: str) -> None:
    assert_as_in_one_process(two_processes, 2, name, settings(name, two_processes))


def test_two_processes_evaluate_several_labels_as_one_does(two_processes: Path) -> None:
    one, two = (described(two_processes / f"several labels_{name}")["metrics"] for name in ("one", "plain"))
    assert {"map", "micro_f1", "threshold"} <= one.keys()
    assert two == pytest.approx(one, rel=1e-3)


@pytest.mark.slow
def test_four_processes_train_the_weights_of_one(tmp_path: Path) -> None:
    in_processes(4, tmp_path, runs_in_layouts(tmp_path, 4, list(RUNS)))
    for name in RUNS:
        assert_as_in_one_process(tmp_path, 4, name, settings(name, tmp_path))


def test_ssia_sends_its_heads_weights_once_and_their_gradients_and_the_progress_each_step(two_processes: Path) -> None:
    sent = json.loads((two_processes / "collectives.json").read_text())
    vanilla, ssia = sent[0], sent[2]  # both without accumulation
    model = timm.create_model("test_vit", num_classes=10, img_size=32)
    student = sum(parameter.numel() for parameter in model.parameters())
    loss = SSIATask(model, SSIAConfig(channel=0.5, spatial=0.5), input_size=(3, 32, 32)).trainable_module.projection
    heads = sum(parameter.numel() for parameter in loss.parameters())

    gradients, at_start = "gloo:all_reduce", "gloo:broadcast"
    assert vanilla[gradients]["elements"] >= STEPS * student
    assert ssia[gradients]["elements"] - vanilla[gradients]["elements"] == STEPS * heads
    shapes = ssia[at_start]["elements"] - vanilla[at_start]["elements"] - heads  # DDP compares them between processes
    assert 0 <= shapes < 1000
    calls = {name: kind["calls"] for name, kind in vanilla.items() if name != gradients}
    calls[at_start] += STEPS  # DDP sends the buffer with the progress of the hand-over, one number
    assert calls == {name: kind["calls"] for name, kind in ssia.items() if name != gradients}


def test_accumulation_sends_gradients_once_a_step(two_processes: Path) -> None:
    plain, accumulated = json.loads((two_processes / "collectives.json").read_text())[:2]
    more = accumulated["gloo:all_reduce"]["elements"] - plain["gloo:all_reduce"]["elements"]
    assert 0 <= more < 100, "one element per evaluation batch, for stop signals"


def test_two_processes_report_the_metrics_of_the_weights_that_are_saved(two_processes: Path) -> None:
    folder = two_processes / "norms"
    assert described(folder)["environment"]["processes"] == "2"
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    measured = validate(model, DataConfig(dataset="digits", max_eval_images=41, workers=0))
    assert measured["loss"] == pytest.approx(described(folder)["metrics"]["loss"], abs=1e-6)


def test_two_processes_choose_the_same_weights_and_resume_to_them(two_processes: Path) -> None:
    folder, again = two_processes / "best", two_processes / "again"
    found = [record["top1"] for record in read_records(folder / "metrics.jsonl") if record["kind"] == "eval"]
    described_as = described(folder)["selection"]
    assert found[described_as["best_epoch"] - 1] == max(found)
    assert described_as["best_epoch"] < described_as["evaluations"] == len(found), "or the test could not fail"
    data = DataConfig(dataset="digits", holdout=0.2, max_eval_images=41, workers=0)
    measured = validate(timm.create_model(f"local-dir:{folder}", pretrained=True), data)
    assert measured["top1"] == pytest.approx(max(found))
    assert measured["loss"] == pytest.approx(described(folder)["metrics"]["loss"], rel=1e-6)
    records = read_records(again / "metrics.jsonl")
    assert min(record["step"] for record in records) == 6, "it resumed with the evaluation after step 6"
    assert described(again)["selection"] == described_as
    assert same_weights(folder, again)
