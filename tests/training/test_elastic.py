"""A run goes on with another number of processes, sharded or not: the same images, each once an epoch."""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ssia_zoo.errors import ConfigError
from ssia_zoo.training import parse_config
from ssia_zoo.training.checkpoint import TrainState, list_checkpoints
from ssia_zoo.training.elastic import align, describe_change, resume_batch, with_accumulation
from ssia_zoo.training.metrics import read_records
from tests.helpers.elastic_runs import watched_main
from tests.helpers.forked import Run, end_all
from tests.helpers.runs import flags, small_run, weights

RUN: dict[str, Any] = {
    "model": "test_vit",
    **{"optimizer": "momentum", "lr": 0.1, "warmup_epochs": 0, "schedule": "constant"},
    **{"ssia.supervisor": "memory", "ema": 0.9, "max_train_images": 72, "epochs": 2, "checkpoint_every": 1},
    **{"batch_size": 2, "accumulation_steps": 3, "keep_checkpoints": 99},
}
"""Of 4 processes: a global batch of 24, 3 steps an epoch. Without dropout and BatchNorm, processes change only sums."""


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    yield
    end_all()


def go_on(folder: Path, processes: int, seen: Path, stop: int = 0, **settings: Any) -> str:
    """Train in real processes, which write the images of each step, and stop after this many; return the log."""
    log = folder.with_suffix(f".{processes}")
    run = Run(log, processes, target=partial(watched_main, seen, stop), output_dir=folder, resume="auto", **settings)
    assert run.wait() == [143 if stop else 0] * processes, run.output()
    return run.output()


def images_seen(seen: Path) -> dict[int, Counter[int]]:
    """Return how often each image was trained on, by epoch."""
    found: dict[int, Counter[int]] = {}
    for path in seen.iterdir():
        for line in path.read_text().splitlines():
            epoch, indices = json.loads(line)
            found.setdefault(epoch, Counter()).update(indices)
    return found


def assert_each_once(seen: Path, images: int, epochs: int) -> None:
    found = images_seen(seen)
    assert sorted(found) == list(range(epochs))
    for counted in found.values():
        assert sorted(counted) == list(range(images))
        assert set(counted.values()) == {1}


def assert_same_up_to_rounding(folder: Path, expected: Path, start: Path, share: float = 1e-3) -> None:
    """Compare weights; they may differ by this share of the distance that training moved them."""
    before, after, found = weights(start), weights(expected), weights(folder)
    for name, tensor in after.items():
        moved = float((tensor - before[name]).abs().max())
        off = float((found[name] - tensor).abs().max())
        assert off < share * moved + 1e-6, f"{name} moved by {moved} and is off by {off}"


def manifests(folder: Path) -> list[tuple[int, int, int]]:
    """Return step, processes and global batch of each checkpoint."""
    read = [json.loads((path / "manifest.json").read_text()) for path in list_checkpoints(folder / "checkpoints")]
    return [(manifest["step"], manifest["processes"], manifest["global_batch"]) for manifest in read]


def test_a_run_of_one_process_goes_on_with_two(tmp_path: Path) -> None:
    folder, seen = tmp_path / "run", tmp_path / "seen"
    small = {**RUN, "batch_size": 4, "accumulation_steps": 6}
    go_on(folder, 1, seen, **small, stop=2)
    log = go_on(folder, 2, seen, **small)
    assert "2 processes instead of 1: batches of 4 images x 3 accumulated x 2 processes keep the global batch" in log
    assert_each_once(seen, 72, 2)
    assert manifests(folder) == [(1, 1, 24), (2, 1, 24), *((step, 2, 24) for step in (3, 4, 5, 6))]
    small_run(tmp_path / "one", **small)
    small_run(tmp_path / "start", **{**small, "lr": 1e-30, "max_steps": 1})
    assert_same_up_to_rounding(folder, tmp_path / "one", tmp_path / "start")


@pytest.mark.slow
def test_four_then_two_then_three_processes_train_the_weights_of_one(tmp_path: Path) -> None:
    folder, seen = tmp_path / "run", tmp_path / "seen"
    for processes, stop in ((4, 2), (2, 5), (3, 0)):
        go_on(folder, processes, seen, stop, **RUN)
    assert_each_once(seen, 72, 2)
    assert [processes for _, processes, _ in manifests(folder)] == [4, 4, 2, 2, 2, 3]
    assert {batch for _, _, batch in manifests(folder)} == {24}
    one = {**RUN, "batch_size": 24, "accumulation_steps": 1}
    small_run(tmp_path / "one", **one)
    small_run(tmp_path / "start", **{**one, "lr": 1e-30, "max_steps": 1})
    assert_same_up_to_rounding(folder, tmp_path / "one", tmp_path / "start")


@pytest.mark.slow
def test_a_global_batch_that_the_processes_cannot_keep_changes_in_a_line_and_loses_no_image(tmp_path: Path) -> None:
    folder, seen = tmp_path / "run", tmp_path / "seen"
    settings = {**RUN, "batch_size": 6, "accumulation_steps": 1, "max_train_images": 84, "epochs": 3}
    go_on(folder, 4, seen, **settings, stop=2)  # of 3 steps of 24 images
    log = go_on(folder, 3, seen, **settings)  # steps of 18
    assert "give a global batch of 18 instead of 24 (24 is no multiple of 18)" in log
    found = images_seen(seen)
    assert [len(found[epoch]) for epoch in range(3)] == [84, 72, 72]
    assert all(set(counted.values()) == {1} for counted in found.values())
    assert manifests(folder)[-1] == (12, 3, 18)


# -- without processes


def manifest(processes: int, batch: int, **others: Any) -> dict[str, Any]:
    facts = {"global_batch": batch, "intended_global_batch": batch, "accumulation_asked": 1, "epoch_images": 0}
    return {"processes": processes, **facts, **others}


def settings(**others: Any) -> Any:
    return parse_config(flags(output_dir="run", **{"batch_size": 8, **others}))


@pytest.mark.parametrize(
    ("processes", "steps", "batch"), [(1, 4, 32), (2, 2, 32), (4, 1, 32), (3, 1, 24), (5, 1, 40), (64, 1, 512)]
)
def test_accumulation_keeps_the_global_batch_or_comes_near(processes: int, steps: int, batch: int) -> None:
    found = resume_batch(settings(), manifest(4, 32), processes)
    assert (found.images, found.intended) == (batch, 32)
    assert with_accumulation(settings(), found, processes).accumulation_steps == steps
    line = describe_change(with_accumulation(settings(), found, processes), found, manifest(4, 32), processes)
    assert "\n" not in line
    assert bool(line) == (processes != 4)
    assert ("instead of 32" in line) == (batch != 32)


def test_the_intended_global_batch_comes_back_with_the_processes() -> None:
    found = resume_batch(settings(), manifest(3, 24, intended_global_batch=32), 4)
    assert found.images == 32


def test_accumulation_may_be_given_as_it_follows_but_not_otherwise() -> None:
    given = resume_batch(settings(accumulation_steps=2), manifest(4, 32), 2)
    assert (given.images, given.accumulation_asked) == (32, 1), "the settings are those of the run"
    other = resume_batch(settings(accumulation_steps=3), manifest(4, 32), 2)
    assert other.accumulation_asked == 3, "refused as a changed setting"


def test_other_processes_within_an_epoch_of_a_stream_are_refused() -> None:
    streaming = settings(dataset="somewhere", streaming=True)
    with pytest.raises(ConfigError, match=r"^`streaming`: [^\n]* resumes with 4 processes, not 2[^\n]*$"):
        resume_batch(streaming, manifest(4, 32, epoch_images=64), 2)
    assert resume_batch(streaming, manifest(4, 32), 2).images == 32


def test_a_static_graph_that_would_need_accumulation_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^`ddp_static_graph` [^\n]*resume with 4 processes$"):
        resume_batch(settings(ddp_static_graph=True), manifest(4, 32), 2)


def test_the_schedule_goes_on_at_the_same_part_of_the_epoch() -> None:
    state = TrainState()
    state.epoch, state.images, state.step = 2, 480, 25  # of 1000 images in steps of 100, 1 of the steps skipped
    align(state, 1000, 50, 20)
    assert state.step + state.shift == 2 * 20 + 10
    align(state, 1000, 100, 10)
    assert state.step + state.shift == 2 * 10 + 5
    state.epoch, state.images = 3, 0
    align(state, 1000, 50, 20)
    assert state.step + state.shift == 60


def test_lr_base_follows_a_changed_global_batch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scaled = {"lr_base": 0.1, "lr_base_size": 32, "method": "vanilla", "epochs": 2, "head_lr": 0.05}
    small_run(tmp_path / "run", **scaled, checkpoint_every=1, keep_checkpoints=12)
    for later in list_checkpoints(tmp_path / "run" / "checkpoints")[2:]:
        shutil.rmtree(later)
    checkpoint = tmp_path / "run" / "checkpoints" / "step_00000002"
    facts = json.loads((checkpoint / "manifest.json").read_text())
    assert facts["epoch_images"] == 32
    facts |= {"processes": 3, "global_batch": 48, "intended_global_batch": 48, "accumulation_asked": 1}
    facts["experiment"]["lr"] = 0.15
    (checkpoint / "manifest.json").write_text(json.dumps(facts))
    with caplog.at_level(logging.INFO):
        small_run(tmp_path / "run", **scaled, resume="auto")
    assert "1 processes instead of 3: batches of 16 images x 3 accumulated" in caplog.text
    last = [record for record in read_records(tmp_path / "run" / "metrics.jsonl") if record["kind"] == "train"][-1]
    assert last["head_lr"] / last["lr"] == pytest.approx(0.05 / (0.1 * 1.5**0.5)), "only `lr` follows the batch"
