"""Checkpoints are complete or absent; damaged ones are named and passed over."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from ssia_zoo.errors import TrainingError
from ssia_zoo.training.checkpoint import find_checkpoint, list_checkpoints, read_manifest
from ssia_zoo.training.metrics import read_records
from ssia_zoo.training.resuming import check_settings
from tests.helpers.runs import ROOT, environment, same_weights, small_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, shared by the tests of this module; do not change it."""
    return small_run(tmp_path_factory.mktemp("finished") / "run").folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of a finished run, with checkpoints of steps 6 and 12."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def truncate(checkpoint: Path) -> None:
    os.truncate(checkpoint / "optimizer.safetensors", 1000)


def flip(name: str) -> Callable[[Path], None]:
    def flip_a_bit(checkpoint: Path) -> None:
        content = bytearray((checkpoint / name).read_bytes())
        content[len(content) // 2] ^= 1
        (checkpoint / name).write_bytes(content)

    return flip_a_bit


def halve(checkpoint: Path) -> None:
    path = checkpoint / "manifest.json"
    os.truncate(path, path.stat().st_size // 2)


def another_kind(checkpoint: Path) -> None:
    (checkpoint / "manifest.json").write_text("[1]")


def empty(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (truncate, "optimizer.safetensors has 1000 bytes"),
    "a bit of the weights": (flip("model.safetensors"), "model.safetensors have changed"),
    "a bit of the random state": (flip("random.safetensors"), "random.safetensors have changed"),
    "half of the manifest": (halve, "manifest.json cannot be used"),
    "no optimizer": (lambda checkpoint: (checkpoint / "optimizer.json").unlink(), "optimizer.json cannot be read"),
    "no manifest": (lambda checkpoint: (checkpoint / "manifest.json").unlink(), "manifest.json is missing"),
    "an empty manifest": (lambda checkpoint: os.truncate(checkpoint / "manifest.json", 0), "manifest.json cannot be"),
    "a manifest of another kind": (another_kind, "manifest.json cannot be used"),
    "an empty folder": (empty, "manifest.json is missing"),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(
    run: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None], reason: str
) -> None:
    newest = run / "checkpoints" / "step_00000012"
    damage(newest)
    found = find_checkpoint("auto", run / "checkpoints")
    assert found is not None
    assert found[0].name == "step_00000006"
    (warning,) = [record.getMessage() for record in caplog.records]
    assert str(newest) in warning
    assert reason in warning
    with pytest.raises(TrainingError, match="step_00000012 is damaged") as caught:
        find_checkpoint(str(newest), run / "checkpoints")
    assert "\n" not in str(caught.value)


def test_a_run_whose_newest_checkpoint_is_damaged_ends_with_the_same_bits(run: Path, finished: Path) -> None:
    damage = run / "checkpoints" / "step_00000012"
    truncate(damage)
    small_run(run, resume="auto")
    assert same_weights(run, finished)
    assert [path.name for path in list_checkpoints(run / "checkpoints")] == ["step_00000006", "step_00000012"]
    assert read_manifest(damage)["step"] == 12, "written anew"
    assert (run / "checkpoints" / "abandoned_step_00000012").exists(), "the damaged one is not deleted"


def test_where_all_checkpoints_are_damaged_nothing_is_touched(run: Path) -> None:
    for checkpoint in list_checkpoints(run / "checkpoints"):
        truncate(checkpoint)
    (run / "checkpoints" / ".unfinished_13").mkdir()
    before = content(run)
    with pytest.raises(TrainingError, match=r"step_00000012 is damaged.*step_00000006 is damaged.*nothing was deleted"):
        small_run(run, resume="auto")
    assert content(run) == before
    assert (run / "checkpoints" / ".unfinished_13").exists()


def rewrite(checkpoint: Path, name: str, content: bytes) -> None:
    """Replace a file, and its size and digest in the manifest."""
    (checkpoint / name).write_bytes(content)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


class Bomb:
    """Leaves a trace if it is ever unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


def test_a_checkpoint_is_safetensors_and_json(run: Path) -> None:
    for path in (run / "checkpoints" / "step_00000012").iterdir():
        assert path.suffix in (".json", ".safetensors")
        if path.suffix == ".json":
            json.loads(path.read_text())
        else:
            load_file(path)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "parts.json", "random.json"])
def test_a_pickle_in_the_place_of_a_file_is_refused_in_a_line_and_never_unpickled(run: Path, name: str) -> None:
    trace = run.parent / "trace"
    rewrite(run / "checkpoints" / "step_00000012", name, pickle.dumps(Bomb(trace)))
    with pytest.raises(TrainingError, match="step_00000012 cannot be loaded") as caught:
        small_run(run, resume="auto")
    assert "\n" not in str(caught.value)
    assert not trace.exists()


def test_a_checkpoint_with_pickles_of_an_older_version_is_refused_in_a_line(run: Path) -> None:
    for checkpoint in list_checkpoints(run / "checkpoints"):
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        del manifest["format"]
        (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(TrainingError, match=r"format 1, expected 2 .safetensors and JSON instead of pickles") as caught:
        small_run(run, resume="auto")
    assert "\n" not in str(caught.value)


def test_the_manifest_lists_every_file_and_what_may_change_the_bits(run: Path) -> None:
    checkpoint = run / "checkpoints" / "step_00000012"
    manifest = read_manifest(checkpoint)
    assert set(manifest["files"]) == set(content(checkpoint)) - {"manifest.json"}
    assert {"model.safetensors", "optimizer.safetensors", "random.json"} <= set(manifest["files"])
    assert {"torch", "timm", "accelerate", "ssia-zoo", "threads"} <= set(manifest["environment"])


def test_another_version_or_number_of_threads_is_warned_of(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    manifest = read_manifest(run / "checkpoints" / "step_00000012")
    here = manifest["environment"]
    check_settings(manifest, manifest["experiment"], here)
    assert not caplog.records
    check_settings(manifest, manifest["experiment"], {**here, "torch": "99.0", "threads": "64"})
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "torch" in warning
    assert "99.0" in warning
    assert "-> 64" in warning


def test_all_of_a_checkpoint_is_on_the_disk_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[tuple[str, Path]] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        events.append(("on disk", Path(os.readlink(f"/proc/self/fd/{number}"))))
        fsync(descriptor)

    def noted_replace(source: Path, target: Path) -> None:
        events.append(("named", Path(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    small_run(tmp_path / "run", epochs=1)
    checkpoints = tmp_path / "run" / "checkpoints"
    final = checkpoints / "step_00000006"
    named = events.index(("named", final))
    unfinished = checkpoints / ".unfinished_6"
    for path in final.iterdir():
        assert events.index(("on disk", unfinished / path.name)) < named
    assert events.index(("on disk", unfinished)) < named
    assert events.index(("on disk", tmp_path / "run" / "metrics.jsonl")) < named
    assert events.index(("on disk", checkpoints)) > named


def test_a_kill_while_an_old_checkpoint_is_deleted_leaves_none_that_looks_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rmtree = shutil.rmtree

    def dying(path: Path, ignore_errors: bool = False) -> None:
        if path.name.endswith("step_00000006"):
            raise KeyboardInterrupt
        rmtree(path, ignore_errors)

    monkeypatch.setattr(shutil, "rmtree", dying)
    with pytest.raises(KeyboardInterrupt):
        small_run(tmp_path / "run", keep_checkpoints=1)
    monkeypatch.undo()
    checkpoints = tmp_path / "run" / "checkpoints"
    assert [path.name for path in list_checkpoints(checkpoints)] == ["step_00000012"]
    assert len(list(checkpoints.iterdir())) == 2, "something is left to clean up"
    small_run(tmp_path / "run", keep_checkpoints=1, resume="auto")
    assert [path.name for path in checkpoints.iterdir()] == ["step_00000012"]


def test_what_a_kill_left_half_written_is_not_taken_and_is_deleted(run: Path) -> None:
    left = run / "checkpoints" / ".unfinished_99"
    left.mkdir()
    (left / "optimizer.safetensors").write_bytes(b"half")
    found = find_checkpoint("auto", run / "checkpoints")
    assert found is not None
    assert found[0].name == "step_00000012"
    small_run(run, resume="auto")
    assert not left.exists()


def test_a_checkpoint_of_other_settings_is_refused_whatever_the_folder(
    run: Path, finished: Path, tmp_path: Path
) -> None:
    checkpoint = run / "checkpoints" / "step_00000006"
    with pytest.raises(TrainingError, match="weight_decay"):
        small_run(tmp_path / "other", resume=checkpoint, weight_decay=0.9)
    small_run(tmp_path / "branch", resume=checkpoint)
    assert same_weights(tmp_path / "branch", finished)


def test_a_checkpoint_from_before_there_was_a_setting_goes_on_with_its_default(run: Path) -> None:
    manifest = read_manifest(run / "checkpoints" / "step_00000012")
    here = manifest["experiment"]
    older = {name: value for name, value in here.items() if name != "crop_pct"}
    older["ssia"] = {name: value for name, value in here["ssia"].items() if name != "labels"}
    check_settings({**manifest, "experiment": older}, here, manifest["environment"])
    changed = {**here, "ssia": {**here["ssia"], "labels": 0.5}}
    with pytest.raises(TrainingError, match=r"changed here: ssia\.labels \(1\.0 -> 0\.5\)"):
        check_settings({**manifest, "experiment": older}, changed, manifest["environment"])


def test_a_run_that_too_many_unreadable_images_stopped_goes_on_with_a_higher_limit(run: Path) -> None:
    manifest = read_manifest(run / "checkpoints" / "step_00000012")
    check_settings(manifest, manifest["experiment"] | {"max_corrupt": 0.1}, manifest["environment"])
    with pytest.raises(TrainingError, match="holdout"):
        check_settings(manifest, manifest["experiment"] | {"holdout": 0.1}, manifest["environment"])


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_a_resumed_run_trains_the_epochs_that_were_added_by_the_new_schedule(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, schedule: str
) -> None:
    settings = {"schedule": schedule, "max_train_images": 48, "method": "vanilla"}
    settings |= {"decay_epochs": 0.5} if schedule == "wsd" else {}
    small_run(tmp_path / "run", **settings, epochs=3)
    with caplog.at_level(logging.INFO):
        small_run(tmp_path / "run", **settings, epochs=5, resume="auto")
    (line,) = [record.getMessage() for record in caplog.records if "`epochs`" in record.getMessage()]
    assert "raised from 3 to 5: from step 9 on" in line
    small_run(tmp_path / "whole", **settings, epochs=5)
    run, other = (read_records(tmp_path / name / "metrics.jsonl") for name in ("run", "whole"))
    added, whole = (
        [(r["step"], r["epoch"], r["lr"]) for r in records if r["kind"] == "train" and r["step"] > 9]
        for records in (run, other)
    )
    assert [step for step, *_ in added] == [10, 11, 12, 13, 14, 15]
    assert added == whole, "the learning rate is what it would have been at these steps"
    assert [r["step"] for r in run if r["kind"] == "eval"] == [3, 6, 9, 12, 15]
    newest = read_manifest(list_checkpoints(tmp_path / "run" / "checkpoints")[-1])
    assert (newest["step"], newest["experiment"]["epochs"]) == (15, 5)


def test_a_run_stopped_within_an_epoch_goes_on_by_the_schedule_of_more_epochs(tmp_path: Path) -> None:
    settings = {"max_train_images": 48, "method": "vanilla", "warmup_epochs": 0}
    small_run(tmp_path / "run", **settings, epochs=2, checkpoint_every=1)
    middle = tmp_path / "run" / "checkpoints" / "step_00000005"
    small_run(tmp_path / "more", **settings, epochs=3, resume=middle)
    steps = [r["step"] for r in read_records(tmp_path / "more" / "metrics.jsonl") if r["kind"] == "train"]
    assert steps == [6, 7, 8, 9]


@pytest.mark.parametrize("epochs", [1, 2])
def test_fewer_epochs_than_before_and_more_with_another_change_are_refused(run: Path, epochs: int) -> None:
    manifest = read_manifest(run / "checkpoints" / "step_00000012")
    manifest["experiment"]["epochs"] = 3
    now = {**manifest["experiment"], "epochs": epochs}
    with pytest.raises(TrainingError, match=rf"a higher `epochs`; changed here: epochs \(3 -> {epochs}\)") as caught:
        check_settings(manifest, now, manifest["environment"])
    assert "\n" not in str(caught.value)
    with pytest.raises(TrainingError, match=r"changed here: lr"):
        check_settings(manifest, {**now, "epochs": 4, "lr": 0.5}, manifest["environment"])


@pytest.mark.parametrize("path", ["nowhere", "file", "folder"])
def test_a_path_that_is_no_checkpoint_is_named(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(TrainingError, match=f"{path} is not a checkpoint"):
        small_run(tmp_path / "run", resume=tmp_path / path)


def test_resuming_an_older_checkpoint_sets_the_later_ones_aside(run: Path) -> None:
    small_run(run, resume=run / "checkpoints" / "step_00000006")
    names = {path.name for path in (run / "checkpoints").iterdir()}
    assert names == {"step_00000006", "step_00000012", "abandoned_step_00000012"}


@pytest.mark.covers("checkpoint_every", "keep_checkpoints")
@pytest.mark.parametrize(("keep", "kept"), [(1, [12]), (3, [4, 8, 12])])
def test_checkpoints_come_as_often_as_asked_for_and_the_newest_are_kept(
    tmp_path: Path, keep: int, kept: list[int]
) -> None:
    small_run(tmp_path / "run", checkpoint_every=4, keep_checkpoints=keep, val_interval=0)
    names = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert sorted(names) == [f"step_{step:08d}" for step in kept]


def test_resume_auto_starts_afresh_where_nothing_was_saved(tmp_path: Path) -> None:
    small_run(tmp_path / "run", resume="auto", max_steps=1)
    assert (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.covers("resume")
def test_a_finished_run_resumes_to_the_same_result(run: Path, finished: Path) -> None:
    (run / "model.safetensors").unlink()
    small_run(run, resume="auto")
    assert same_weights(run, finished)
    assert json.loads((run / "config.json").read_text()) == json.loads((finished / "config.json").read_text())
    assert (run / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()


STALE = """
import sys
from pathlib import Path
from accelerate import Accelerator
from torch import nn, optim
from ssia_zoo.training.checkpoint import list_checkpoints
from ssia_zoo.training.saving import CheckpointSaver
from ssia_zoo.training.snapshot import Checkpointed

accelerator, folder = Accelerator(), Path(sys.argv[1])
if not accelerator.is_main_process:  # as a network file system may still answer
    there = Path.exists
    Path.exists = lambda path: path.name == "step_00000001" or there(path)
module = nn.Linear(1, 1)
saver = CheckpointSaver(folder, 2)
saver.save(Checkpointed(accelerator, module, optim.SGD(module.parameters()), {}), 1, {})
saver.wait()
accelerator.wait_for_everyone()
assert [path.name for path in list_checkpoints(folder)] == ["step_00000001"]
"""


def test_processes_agree_on_a_checkpoint_whatever_their_file_systems_answer(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    command = [sys.executable, "-c", STALE, str(tmp_path / "checkpoints")]
    ranks = [
        subprocess.Popen(command, cwd=ROOT, env={**environment(), **place, "RANK": rank, "LOCAL_RANK": rank})
        for rank in ("0", "1")
    ]
    try:
        assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
