"""Runs that are killed at any moment or stopped, then resumed, end with the bits of an uninterrupted run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ssia_zoo.training.checkpoint import list_checkpoints
from ssia_zoo.training.metrics import read_records
from tests.helpers.forked import Run, end_all
from tests.helpers.runs import ROOT, TRAIN, environment, flags, same_weights

# Whatever draws random numbers or keeps state, and checkpoints within epochs and between records.
EVERYTHING: dict[str, object] = {
    "model": "test_vit",
    "batch_size": 4,
    "accumulation_steps": 2,
    "max_train_images": 48,
    "epochs": 2,
    "checkpoint_every": 2,
    "ema": 0.9,
    "mixup": 0.2,
    "cutmix": 0.5,
    "random_erase": 0.3,
    "drop_rate": 0.2,
    "drop_path_rate": 0.2,
    "balanced_sampling": True,
    "workers": 1,
}
BATCH_NORM = {
    **{**EVERYTHING, "model": "test_resnet", "clip_grad": 1.0, "optimizer": "lamb"},
    **{"holdout": 0.2, "keep_best": True, "patience": 9},
}


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    yield
    end_all()


def records(folder: Path) -> list[dict[str, object]]:
    """Return the metrics without what is measured of the machine."""
    measured = {"images_per_second", "data_wait", "peak_memory_mb", "save_seconds"}
    return [{k: v for k, v in r.items() if k not in measured} for r in read_records(folder / "metrics.jsonl")]


def assert_same_end(folder: Path, whole: Path) -> None:
    assert same_weights(folder, whole)
    assert records(folder) == records(whole)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == len(records(folder)), "no line is cut off"
    assert not list((folder / "checkpoints").glob(".unfinished_*"))


def uninterrupted_run(folder: Path, processes: int = 1, **settings: object) -> Path:
    run = Run(folder.with_suffix(".log"), processes, output_dir=folder, **settings)
    assert run.wait() == [0] * processes, run.output()
    (newest,) = list_checkpoints(folder / "checkpoints")[-1:]
    assert json.loads((newest / "manifest.json").read_text())["processes"] == processes, "or all would be vacuous"
    return folder


def wait_until(condition: Callable[[], bool], run: Run, seconds: float = 240) -> bool:
    """Wait for a condition; return whether it came true while the run was running."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        if not run.running:
            return condition()
        time.sleep(0.005)
    raise AssertionError(f"waited {seconds} s: {run.output()}")


def wait_for_step(step: int, run: Run, folder: Path) -> None:
    def is_there() -> bool:
        path = folder / "metrics.jsonl"
        return path.exists() and any(record["step"] >= step for record in read_records(path))

    assert wait_until(is_there, run), run.output()


def kill_somewhere(run: Run, folder: Path, moment: random.Random, ranks: tuple[int, ...] = ()) -> bool:
    """Kill a run at a random moment; return whether it was still running."""
    checkpoints = folder / "checkpoints"

    def newest() -> str:
        return max((path.name for path in list_checkpoints(checkpoints)), default="")

    def writing() -> bool:
        return any(checkpoints.glob(".unfinished_*"))

    before = newest()
    kind = moment.choice(["at the start", "in a step", "in a step", "writing", "writing", "written"])
    if kind == "at the start":
        wait_until(lambda: run.log.exists() or not run.running, run)
    elif kind == "writing":
        wait_until(lambda: newest() > before, run)  # so that the run advances between kills
        wait_until(writing, run)
    else:
        wait_until(lambda: newest() > before, run)
    time.sleep(moment.random() * {"at the start": 2.0, "in a step": 0.5, "writing": 0.03, "written": 0.005}[kind])
    was_running = run.running
    run.kill(*ranks)
    run.wait()
    return was_running


def kill_and_resume(folder: Path, seed: int, kills: int, **settings: object) -> int:
    """Kill and resume a run until it ends; return the number of kills."""
    moment, killed = random.Random(seed), 0
    while True:
        run = Run(folder.with_suffix(".log"), output_dir=folder, resume="auto", **settings)
        if killed == kills:
            break
        if not kill_somewhere(run, folder, moment):
            break
        killed += 1
    assert run.wait() == [0], run.output()
    return killed


@pytest.mark.parametrize("settings", [EVERYTHING, BATCH_NORM], ids=["vit", "batch norm"])
def test_a_run_killed_again_and_again_ends_with_the_same_bits_and_records(
    tmp_path: Path, settings: dict[str, object]
) -> None:
    whole = uninterrupted_run(tmp_path / "whole", **settings)
    assert kill_and_resume(tmp_path / "killed", 1, 2, **settings) == 2
    assert "resumed" in (tmp_path / "killed.log").read_text()
    assert_same_end(tmp_path / "killed", whole)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_fifty_kills_at_random_moments_change_no_bit(tmp_path: Path) -> None:
    settings = {**EVERYTHING, "checkpoint_every": 1, "epochs": 16}
    whole = uninterrupted_run(tmp_path / "whole", **settings)
    kills = attempt = 0
    while kills < 50:
        folder = tmp_path / f"killed{attempt}"
        kills += kill_and_resume(folder, attempt, 50 - kills, **settings)
        assert_same_end(folder, whole)
        attempt += 1


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("settings", [EVERYTHING, BATCH_NORM], ids=["vit", "batch norm"])
def test_two_processes_of_which_one_or_both_are_killed_change_no_bit(
    tmp_path: Path, settings: dict[str, object]
) -> None:
    settings = {**settings, "epochs": 8, "checkpoint_every": 1}
    whole = uninterrupted_run(tmp_path / "whole", 2, **settings)
    folder, moment = tmp_path / "killed", random.Random(0)
    for ranks in [(0,), (1,), (0, 1)] * 2:
        run = Run(tmp_path / "killed.log", 2, output_dir=folder, resume="auto", **settings)
        assert kill_somewhere(run, folder, moment, ranks), "it was to be killed in the middle"
        assert None not in run.wait(1), "the process left alone ends too"
    run = Run(tmp_path / "killed.log", 2, output_dir=folder, resume="auto", **settings)
    assert run.wait() == [0, 0], run.output()
    assert_same_end(folder, whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1], ids=lambda number: number.name)
def test_a_signal_ends_the_step_writes_a_checkpoint_and_says_so(tmp_path: Path, number: signal.Signals) -> None:
    settings = {"checkpoint_every": 1000, "epochs": 20, "method": "vanilla"}
    run = Run(tmp_path / "log", output_dir=tmp_path / "run", **settings)
    wait_for_step(2, run, tmp_path / "run")
    run.signal(number)
    assert run.wait() == [128 + number], run.output()
    (checkpoint,) = list_checkpoints(tmp_path / "run" / "checkpoints")
    step = int(checkpoint.name.removeprefix("step_"))
    assert step % 6, "in the middle of an epoch"
    last = run.output().splitlines()[-1]
    assert last == (
        f"stopped by {number.name} after step {step}; the same command with --resume auto continues from there"
    )
    assert "Traceback" not in run.output()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_to_the_whole_job_leaves_the_loading_processes_to_finish_the_step(
    tmp_path: Path, number: signal.Signals
) -> None:
    settings = {"workers": 2, "accumulation_steps": 3, "batch_size": 4, "epochs": 50, "checkpoint_every": 1000}
    run = Run(tmp_path / "log", output_dir=tmp_path / "run", **settings)
    wait_for_step(1, run, tmp_path / "run")
    pid = run.ranks[0].pid
    loading = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert len(loading) >= 2
    for worker in loading:
        os.kill(int(worker), number)
    time.sleep(0.5)  # the workers get it first, and must still deliver the batches of this step
    assert run.running, run.output()
    run.signal(number)
    assert run.wait() == [128 + number], run.output()
    assert len(list_checkpoints(tmp_path / "run" / "checkpoints")) == 1


def test_a_stopped_run_goes_on_to_the_same_bits_and_records(tmp_path: Path) -> None:
    settings = {**BATCH_NORM, "checkpoint_every": 1000}
    whole = uninterrupted_run(tmp_path / "whole", **settings)
    folder = tmp_path / "stopped"
    for step in (1, 4):
        run = Run(tmp_path / "log", output_dir=folder, resume="auto", **settings)
        wait_for_step(step, run, folder)
        run.signal(signal.SIGTERM)
        assert run.wait() == [143], run.output()
    run = Run(tmp_path / "log", output_dir=folder, resume="auto", **settings)
    assert run.wait() == [0], run.output()
    assert_same_end(folder, whole)


def test_a_signal_to_one_of_two_processes_stops_both_at_the_same_step(tmp_path: Path) -> None:
    whole = uninterrupted_run(tmp_path / "whole", 2, **EVERYTHING)
    folder = tmp_path / "stopped"
    settings = {**EVERYTHING, "checkpoint_every": 1000}
    run = Run(tmp_path / "log", 2, output_dir=folder, **settings)
    wait_for_step(1, run, folder)
    run.signal(signal.SIGTERM, 1)
    assert run.wait() == [143, 143], run.output()
    assert run.output().count("stopped by SIGTERM after step") == 1, "one process reports it"
    run = Run(tmp_path / "log", 2, output_dir=folder, resume="auto", **settings)
    assert run.wait() == [0, 0], run.output()
    assert_same_end(folder, whole)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=lambda number: number.name)
def test_torchrun_passes_the_signal_on_and_its_processes_leave_a_checkpoint(
    tmp_path: Path, number: signal.Signals
) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    torchrun += ["--signals-to-handle", "SIGTERM,SIGINT,SIGUSR1"]
    command = [*torchrun, str(TRAIN), *flags(output_dir=tmp_path / "run", epochs=500, checkpoint_every=10**6)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=log, stderr=log)
        try:
            metrics = tmp_path / "run" / "metrics.jsonl"
            while not (metrics.exists() and len(read_records(metrics)) > 2):
                assert process.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.05)
            process.send_signal(number)
            process.wait(120)
        finally:
            process.kill()
    (checkpoint,) = list_checkpoints(tmp_path / "run" / "checkpoints")
    assert json.loads((checkpoint / "manifest.json").read_text())["processes"] == 2
    assert (tmp_path / "log").read_text().count(f"stopped by {number.name} after step") == 1
