"""`batch_size` auto: the largest halving that fits, recorded, and used by a resumed run."""

from __future__ import annotations

import logging
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ssia_zoo.errors import TrainingError
from ssia_zoo.training import batch_size
from ssia_zoo.training.config import AutoBatchSize, TrainConfig
from tests.helpers.forked import Run, end_all
from tests.helpers.runs import same_weights, small_run


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let batches of more than 8 images run out of memory; return the sizes that are tried."""
    sizes: list[int] = []

    def train_steps(config: TrainConfig, *rest: Any) -> None:
        sizes.append(config.batch_size)
        if config.batch_size > 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(batch_size, "_train_steps", train_steps)
    return sizes


@pytest.mark.covers("batch_size")
def test_the_size_is_halved_until_it_fits_and_a_resumed_run_uses_it(
    tmp_path: Path, tried: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ssia_zoo")
    small_run(tmp_path / "run", batch_size="auto", epochs=2)
    assert tried == [64, 32, 16, 8], "96 images do not fill a batch of 128"
    assert "`batch_size` auto: 8, halved from 128 to fit memory and the number of images" in caplog.text
    assert yaml.safe_load((tmp_path / "run" / "train_config.yaml").read_text())["batch_size"] == 8
    tried.clear()
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step_00000024")
    again = shutil.copytree(tmp_path / "run", tmp_path / "again")
    small_run(again, batch_size="auto", epochs=2, resume="auto")
    assert not tried
    assert "`batch_size` auto: 8, as in the run that is resumed" in caplog.text
    assert same_weights(tmp_path / "run", again)


@pytest.mark.slow
def test_a_process_that_runs_out_of_memory_trains_with_half_the_batch(tmp_path: Path) -> None:
    settings = {"model": "test_vit", "method": "vanilla", "image_size": 512, "max_steps": 1, "val_interval": 0}
    limits = {resource.RLIMIT_DATA: 1200 << 20}
    run = Run(tmp_path / "log", limits=limits, output_dir=tmp_path / "run", batch_size="auto", **settings)
    try:
        assert run.wait() == [0], run.output()
    finally:
        end_all()
    assert yaml.safe_load((tmp_path / "run" / "train_config.yaml").read_text())["batch_size"] < 64


def test_a_run_that_does_not_fit_on_the_gpu_names_the_batch_that_does(
    tmp_path: Path, tried: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("ssia_zoo.training.loop.optimizer_step", no_memory)
    expected = (
        r"^out of memory \(asked for 2.00 GiB more\) with batches of 32 images of 32x32, while 8 fit; .*"
        r"--batch-size 8 --accumulation-steps 4, for the same global batch"
    )
    with pytest.raises(TrainingError, match=expected):
        small_run(tmp_path / "run", batch_size=32)
    assert tried == [16, 8]
    tried.clear()
    with pytest.raises(TrainingError, match=r"with batches of 33 images of 32x32; in a new"):
        small_run(tmp_path / "odd", batch_size=33)
    assert not tried


def test_without_a_size_that_fits_one_line_says_so(tmp_path: Path, tried: list[int]) -> None:
    with pytest.raises(TrainingError, match="out of memory with a batch of 64; set `grad_checkpointing`"):
        small_run(tmp_path / "run", batch_size="auto", aug_repeats=64)
    assert not (tmp_path / "run").exists()


def test_a_training_step_that_fits_keeps_the_first_size(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ssia_zoo")
    mixed = {"mixup": 0.2, "ema": 0.9, "ssia.supervisor": "now"}
    small_run(tmp_path / "run", batch_size="auto", max_train_images=40, epochs=1, max_steps=1, **mixed)
    assert "`batch_size` auto: 32, halved from 128" in caplog.text
    assert caplog.text.count("40 images of train") == 1, "the trial logs nothing twice"


def test_auto_in_a_file_or_in_python_is_the_flag(tmp_path: Path) -> None:
    assert isinstance(TrainConfig(batch_size="auto").batch_size, AutoBatchSize)
    assert isinstance(TrainConfig(batch_size="auto", epochs=3).batch_size, int)
