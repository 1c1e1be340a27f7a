"""Real processes: they give one process's weights, and the metrics of the weights that are saved."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
from conftest import ROOT, TRAIN, flags, run, small_run, weights

from ssia_zoo.data import DataConfig
from ssia_zoo.ssia import SSIAConfig
from ssia_zoo.task import SSIATask
from ssia_zoo.validation import validate

SEVERAL = Path(__file__).with_name("several_runs.py")
SGD = {
    "optimizer": "momentum",  # Adam would blow up the rounding of gradients that are zero
    "lr": 0.1,
    "warmup_epochs": 0,
    "schedule": "constant",
    "epochs": 1,
    "max_steps": 5,
}
SIGNALS = {"ssia.channel": 0.5, "ssia.spatial": 0.5}
# No batch statistics, which are each process's own, and no dropout: what remains is the same sum in another order.
RUNS: dict[str, dict[str, Any]] = {
    "vanilla": {"method": "vanilla", "model": "test_convnext", **SGD},
    "all": {"model": "test_vit", "ema": 0.8, "clip_grad": 1.0, **SIGNALS, **SGD},
}
GLOBAL_BATCH = 16


def torchrun(processes: int, *words: object, timeout: float = 500, **variables: str) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"PYTHONPATH": python_path, "OMP_NUM_THREADS": "1", **variables}.items():
            patch.setenv(name, value)
        done = run(*launcher, *words, timeout=timeout)
    assert done.returncode == 0, done.stderr[-3000:]


def described(folder: Path) -> dict[str, Any]:
    described: dict[str, Any] = json.loads((folder / "config.json").read_text())["ssia"]
    return described


def assert_like_one_process(folder: Path, processes: int, layouts: dict[str, dict[str, int]]) -> None:
    """Train each of RUNS in one process and in several, in layouts of one global batch, and compare the weights.

    The sums of float32 gradients in another order differ by some 1e-6 of them, and training carries that on; a gradient
    that is not averaged, not divided or not synchronised moves weights by another amount altogether. So the weights
    may differ by a thousandth of the way that training has moved them.
    """
    several = []
    for name, settings in RUNS.items():
        small_run(folder / f"{name}_start", **{**settings, "lr": 1e-30, "max_steps": 1})
        small_run(folder / f"{name}_one", batch_size=GLOBAL_BATCH, **settings)
        for layout, sizes in layouts.items():
            assert sizes["batch_size"] * sizes["accumulation_steps"] * processes == GLOBAL_BATCH
            several.append(json.dumps(flags(output_dir=folder / f"{name}_{layout}", **sizes, **settings)))
    torchrun(processes, SEVERAL, *several)
    for name in RUNS:
        start, one = weights(folder / f"{name}_start"), weights(folder / f"{name}_one")
        for layout in layouts:
            other = folder / f"{name}_{layout}"
            assert described(other)["environment"]["processes"] == str(processes), "or the test would pass vacuously"
            assert described(other)["metrics"]["loss"] == pytest.approx(
                described(folder / f"{name}_one")["metrics"]["loss"], rel=1e-4
            ), "evaluation counts each image once"
            moved = {key: float((one[key] - start[key]).abs().max()) for key in one}
            assert sum(way > 1e-3 for way in moved.values()) > len(moved) / 2, "or there is nothing to compare"
            for key, actual in weights(other).items():
                differs = float((actual - one[key]).abs().max())
                assert differs < 1e-3 * moved[key] + 1e-6, (
                    f"{name}, {layout}: {key} moved {moved[key]}, off by {differs}"
                )


def test_two_processes_train_the_weights_of_one(tmp_path: Path) -> None:
    layouts = {
        "plain": {"batch_size": 8, "accumulation_steps": 1},
        "accumulated": {"batch_size": 4, "accumulation_steps": 2},
    }
    assert_like_one_process(tmp_path, 2, layouts)


@pytest.mark.slow
def test_four_processes_train_the_weights_of_one(tmp_path: Path) -> None:
    layouts = {
        "plain": {"batch_size": 4, "accumulation_steps": 1},
        "accumulated": {"batch_size": 2, "accumulation_steps": 2},
    }
    assert_like_one_process(tmp_path, 4, layouts)


def test_ssia_asks_no_more_of_the_network_than_its_heads_gradients(tmp_path: Path) -> None:
    steps = 3
    settings = {"model": "test_vit", "batch_size": 8, **SGD, "max_steps": steps}
    words = [
        json.dumps(flags(output_dir=tmp_path / method, method=method, **extra, **settings))
        for method, extra in (("vanilla", {}), ("ssia", SIGNALS))
    ]
    torchrun(2, SEVERAL, *words, COLLECTIVES=str(tmp_path / "collectives.json"))
    assert described(tmp_path / "ssia")["environment"]["processes"] == "2"
    vanilla, ssia = json.loads((tmp_path / "collectives.json").read_text())
    model = timm.create_model("test_vit", num_classes=10, img_size=32)
    student = sum(p.numel() for p in model.parameters())
    task = SSIATask(model, SSIAConfig(channel=0.5, spatial=0.5), input_size=(3, 32, 32))
    heads = sum(p.numel() for p in task.trainable_module.projection.parameters())
    gradients = "gloo:all_reduce"
    assert vanilla[gradients][1] >= steps * student
    assert ssia[gradients][1] - vanilla[gradients][1] == steps * heads
    assert {k: v for k, v in vanilla.items() if k != gradients} == {k: v for k, v in ssia.items() if k != gradients}


def test_two_processes_report_the_metrics_of_the_weights_that_are_saved(tmp_path: Path) -> None:
    torchrun(2, TRAIN, *flags(output_dir=tmp_path / "run", batch_size=8, max_eval_images=41, ema=0.5))
    assert described(tmp_path / "run")["environment"]["processes"] == "2"
    model = timm.create_model(f"local-dir:{tmp_path / 'run'}", pretrained=True)
    measured = validate(model, DataConfig(dataset="digits", max_eval_images=41, workers=0))
    assert measured["loss"] == pytest.approx(described(tmp_path / "run")["metrics"]["loss"], abs=1e-6)
