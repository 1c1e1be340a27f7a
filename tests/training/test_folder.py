"""One run at a time writes to a folder, and the commands that a run prints can be pasted."""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock, Timeout

from ssia_zoo.errors import TrainingError
from ssia_zoo.training.arguments import read_config
from ssia_zoo.training.folder import RunFolder
from tests.helpers.forked import FORKED
from tests.helpers.runs import same_weights, small_run


def test_the_lock_is_removed_while_it_is_held_and_a_left_one_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, released = tmp_path / "run" / ".lock", []
    release = FileLock.release

    def noted(self: FileLock, force: bool = False) -> None:
        if self.is_locked and Path(self.lock_file) == lock:
            released.append(lock.exists())
        release(self, force)

    monkeypatch.setattr(FileLock, "release", noted)
    (tmp_path / "run").mkdir()
    lock.touch()  # left by a killed run
    small_run(tmp_path / "run", max_steps=1)
    assert released == [False]


def hold_and_release(folder: Path, seconds: float) -> None:
    """Take and release a folder's lock, and fail if another process holds it too."""
    end, held = time.monotonic() + seconds, 0
    while time.monotonic() < end or not held:  # a busy machine may let the others go first
        lock, saver = FileLock(folder / ".lock", timeout=0), SimpleNamespace(close=lambda: None)
        run: Any = SimpleNamespace(path=folder, _lock=lock, saver=saver)
        try:
            run._lock.acquire()
        except Timeout:
            continue
        (folder / "inside").mkdir()
        time.sleep(0.0005)
        (folder / "inside").rmdir()
        RunFolder.release(run)
        held += 1


def test_the_lock_is_never_held_twice(tmp_path: Path) -> None:
    several = [FORKED.Process(target=hold_and_release, args=(tmp_path, 2)) for _ in range(3)]
    for process in several:
        process.start()
    for process in several:
        process.join(120)
        assert process.exitcode == 0


def test_a_run_in_a_folder_called_as_a_model_is_named_as_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.INFO, "ssia_zoo"):
        small_run(Path("mobilenetv3_small_050_ssia"), max_steps=1)
    assert "ssia-zoo validate ./mobilenetv3_small_050_ssia " in caplog.text
    assert "ssia-zoo publish ./mobilenetv3_small_050_ssia " in caplog.text


def test_a_trained_model_without_checkpoints_is_not_replaced_by_resume(tmp_path: Path) -> None:
    small_run(tmp_path / "run", max_steps=1)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    kept = shutil.copytree(tmp_path / "run", tmp_path / "kept")
    with pytest.raises(TrainingError, match=r"holds a trained model and no checkpoint to resume from"):
        small_run(tmp_path / "run", max_steps=1, seed=5, resume="auto")
    assert same_weights(tmp_path / "run", kept)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (kept / "metrics.jsonl").read_bytes()


def test_the_settings_file_has_no_values_that_follow_from_the_model(tmp_path: Path) -> None:
    folder = small_run(tmp_path / "run", max_steps=1, crop_pct=0.9).folder
    written = read_config(str(folder / "train_config.yaml"))
    assert (written.ssia.weight, written.interpolation, written.crop_mode) == (None, None, None)
    assert written.crop_pct == 0.9


def test_a_copy_beside_the_checkpoints_is_neither_taken_nor_deleted(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run").folder
    for suffix in (".bak", "_keep"):
        shutil.copytree(run / "checkpoints" / "step_00000006", run / "checkpoints" / f"step_00000006{suffix}")
    small_run(run, resume="auto", epochs=4, keep_checkpoints=1)
    names = {path.name for path in (run / "checkpoints").iterdir()}
    assert names == {"step_00000006.bak", "step_00000006_keep", "step_00000024"}
