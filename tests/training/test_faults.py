"""System failures and losses that are not finite: one line with a fix, and the last checkpoint stays."""

from __future__ import annotations

import math
import os
import resource
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from timm.task import ClassificationTask
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from ssia_zoo.errors import TrainingError
from ssia_zoo.training.arguments import parse_config
from ssia_zoo.training.checkpoint import find_checkpoint, list_checkpoints
from ssia_zoo.training.faults import translate_errors
from ssia_zoo.training.folder import RunFolder
from ssia_zoo.training.methods import METHODS
from ssia_zoo.training.metrics import read_records
from ssia_zoo.training.snapshot import Checkpointed, Snapshot
from tests.helpers.forked import Run, end_all
from tests.helpers.runs import same_weights, small_run, train_in_a_process, weights


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    yield
    end_all()


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of twelve steps, as left by a kill after its first epoch: one checkpoint, no model."""
    folder = small_run(tmp_path_factory.mktemp("begun") / "run").folder
    for path in (folder / "model.safetensors", folder / "config.json", folder / "README.md"):
        path.unlink()
    shutil.rmtree(folder / "checkpoints" / "step_00000012")
    return folder


def error_line(run: Run) -> str:
    """Return the one line that a failed run ends with."""
    text = run.output()
    assert "Traceback" not in text, text
    (line,) = [line for line in text.splitlines() if line.startswith("error:")]
    return line


@pytest.mark.parametrize("limit", [3_000_000, 1_000_000, 30_000], ids=["optimizer", "weights", "curves"])
def test_a_full_disk_ends_the_run_in_one_line_and_the_checkpoint_before_stays(
    begun: Path, tmp_path: Path, limit: int
) -> None:
    folder = Path(shutil.copytree(begun, tmp_path / "run"))
    run = Run(tmp_path / "log", output_dir=folder, resume="auto", limits={resource.RLIMIT_FSIZE: limit})
    assert run.wait() == [1], run.output()
    line = error_line(run)
    assert "free some space" in line
    assert "--resume auto" in line
    found = find_checkpoint("auto", folder / "checkpoints")
    assert found is not None
    assert [path.name for path in (folder / "checkpoints").iterdir()] in (
        ["step_00000006"],
        ["step_00000006", "step_00000012"],  # the curves did not fit
        ["step_00000012", "step_00000006"],
    )
    assert not [path.name for path in folder.iterdir() if path.name.endswith("model.safetensors")]
    small_run(folder, resume="auto")
    small_run(tmp_path / "whole")
    assert same_weights(folder, tmp_path / "whole")


def test_a_disk_too_full_for_the_model_leaves_the_one_that_is_there(tmp_path: Path) -> None:
    small_run(tmp_path / "run")
    before = {path.name: path.stat().st_ino for path in (tmp_path / "run").iterdir()}
    run = Run(tmp_path / "log", output_dir=tmp_path / "run", resume="auto", limits={resource.RLIMIT_FSIZE: 1_000_000})
    assert run.wait() == [1], run.output()
    assert "free some space" in error_line(run)
    after = {path.name: path.stat().st_ino for path in (tmp_path / "run").iterdir()}
    assert after.keys() == before.keys(), "no incomplete file is left"
    assert after["model.safetensors"] == before["model.safetensors"]


def test_a_disk_that_fills_up_under_the_metrics_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = RunFolder.begin

    def begin_on_a_full_disk(folder: RunFolder, accelerator: Accelerator, step: int) -> None:
        begin(folder, accelerator, step)
        folder._metrics.path = Path("/dev/full")

    monkeypatch.setattr(RunFolder, "begin", begin_on_a_full_disk)
    with pytest.raises(TrainingError, match=r"disk full: .*No space left on device.*free some space"):
        small_run(tmp_path / "run")


def test_a_dead_worker_ends_the_run_in_one_line(tmp_path: Path) -> None:
    run = Run(tmp_path / "log", output_dir=tmp_path / "run", workers=2, epochs=50, checkpoint_every=1)
    while not list_checkpoints(tmp_path / "run" / "checkpoints"):
        assert run.running, run.output()
        time.sleep(0.02)
    pid = run.ranks[0].pid
    workers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    os.kill(int(workers[0]), signal.SIGKILL)
    assert run.wait() == [1], run.output()
    line = error_line(run)
    assert "a data loading worker ended" in line
    assert "--workers (now 2)" in line
    assert find_checkpoint("auto", tmp_path / "run" / "checkpoints") is not None


def test_a_worker_that_dies_while_a_checkpoint_is_written_is_no_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        raise RuntimeError("DataLoader worker (pid 5236) is killed by signal: Killed. ")  # as torch's handler does

    monkeypatch.setattr(Checkpointed, "snapshot", die)
    with pytest.raises(TrainingError, match=r"a data loading worker ended: .*pid 5236.*`workers` \(now 0\)"):
        small_run(tmp_path / "run")
    assert not list((tmp_path / "run").glob("checkpoints/*")), "no incomplete checkpoint is left"


def test_a_dead_process_of_two_ends_the_other_in_one_line(tmp_path: Path) -> None:
    run = Run(tmp_path / "log", 2, output_dir=tmp_path / "run", epochs=50, checkpoint_every=1)
    while not list_checkpoints(tmp_path / "run" / "checkpoints"):
        assert run.running, run.output()
        time.sleep(0.02)
    run.kill(1)
    assert run.wait(120) == [1, -signal.SIGKILL], run.output()
    assert "another process of this run ended" in error_line(run)
    assert find_checkpoint("auto", tmp_path / "run" / "checkpoints") is not None


def test_out_of_memory_is_reported_with_settings_to_change(tmp_path: Path) -> None:
    run = Run(
        tmp_path / "log",
        output_dir=tmp_path / "run",
        batch_size=96,
        image_size=512,
        limits={resource.RLIMIT_DATA: 300_000_000},
    )
    assert run.wait() == [1], run.output()
    line = error_line(run)
    assert line.startswith("error: out of memory (asked for ")
    assert "batches of 96 images of 512x512" in line
    assert "--batch-size 48 --accumulation-steps 2" in line


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …"), "asked for 2.00 GiB"),
        (RuntimeError("Caught MemoryError in DataLoader worker: std::bad_alloc"), "out of memory"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible …"), "/dev/shm"),
        (RuntimeError("unable to resize file </torch_7_4_0> to the right size: File too large (27)"), "/dev/shm"),
        (
            RuntimeError(
                "Caught RuntimeError in DataLoader worker process 0.\nunable to allocate shared memory(shm) for file "
                "</torch_7_4_0>: No space left on device (28)"
            ),
            "no shared memory for a batch",
        ),
        (torch.distributed.DistNetworkError("The client socket has timed out"), "another process"),
        (OSError(122, "Disk quota exceeded"), "disk full"),
    ],
    ids=[
        "gpu",
        "worker",
        "shared memory",
        "file size",
        "no shared memory",
        "network",
        "quota",
    ],
)
def test_failures_that_cannot_be_provoked_here_are_recognized_by_their_message(
    tmp_path: Path, error: Exception, message: str
) -> None:
    config = parse_config(["--model", "x", "--dataset", "digits", "--output-dir", str(tmp_path)])
    with pytest.raises(TrainingError, match=message), translate_errors(config):
        raise error


@pytest.mark.slow
def test_a_missing_compiler_is_reported_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nonexistent/g++")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    done = train_in_a_process(output_dir=tmp_path / "run", method="vanilla", compile=True, max_steps=1)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: --compile (or the launcher's dynamo backend) failed: ")
    assert "No working C++ compiler" in line
    assert "aot_eager" in line


def test_a_failed_compilation_is_reported_with_what_to_set(tmp_path: Path) -> None:
    config = parse_config(["--model", "x", "--dataset", "digits", "--output-dir", str(tmp_path)])  # by the launcher
    message = "^`compile` .* failed: no compiler; leave it out, or set another `compile_backend`"
    with pytest.raises(TrainingError, match=message), translate_errors(config):
        raise TorchDynamoException("no compiler")


class Cut:
    """A queue whose other end is closed."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def get(self, timeout: float) -> None:
        raise self.error


CUT = [EOFError(), ConnectionResetError(104, "Connection reset by peer"), BrokenPipeError(32, "Broken pipe")]


@pytest.mark.parametrize("error", CUT, ids=lambda error: type(error).__name__)
def test_a_lost_connection_is_a_dead_worker_only_where_the_loader_takes_a_batch(
    tmp_path: Path, error: Exception
) -> None:
    config = parse_config(["--model", "x", "--dataset", "digits", "--output-dir", str(tmp_path)])
    loader = SimpleNamespace(_data_queue=Cut(error), _workers=[])
    with pytest.raises(TrainingError, match="a data loading worker ended"), translate_errors(config):
        _MultiProcessingDataLoaderIter._try_get_data(loader)
    error.__traceback__ = None
    with pytest.raises(type(error)), translate_errors(config):  # of a tracker, a stream, a file system
        raise error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.2]"),
        torch.distributed.DistBackendError("NCCL error in: ProcessGroupNCCL.cpp:3690, remote process exited"),
    ],
    ids=["gloo", "nccl"],
)
def test_a_process_lost_while_a_checkpoint_is_written_is_no_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def lose(*_: object, **__: object) -> None:
        monkeypatch.setattr("ssia_zoo.training.faults._distributed", lambda: True)
        raise error

    monkeypatch.setattr(Checkpointed, "snapshot", lose)
    with pytest.raises(TrainingError, match="another process of this run ended") as caught:
        small_run(tmp_path / "run")
    assert "free some space" not in str(caught.value)


def test_a_file_that_cannot_be_written_is_a_disk_failure_with_several_processes_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        monkeypatch.setattr("ssia_zoo.training.faults._distributed", lambda: True)
        raise TimeoutError(110, "Connection timed out")  # as from a network file system

    monkeypatch.setattr(Snapshot, "write", fail)
    with pytest.raises(TrainingError, match=r"cannot be written: .*Connection timed out.*free some space"):
        small_run(tmp_path / "run")


def test_an_error_that_is_not_known_keeps_its_traceback(tmp_path: Path) -> None:
    config = parse_config(["--model", "x", "--dataset", "digits", "--output-dir", str(tmp_path)])
    with pytest.raises(RuntimeError, match=r"^a bug$") as caught, translate_errors(config):
        raise RuntimeError("a bug")
    assert not isinstance(caught.value, TrainingError)


class LosesItsLoss(ClassificationTask):
    """Its loss is NaN on some batches, with gradients as usual."""

    def __init__(self, batches: range, model: torch.nn.Module) -> None:
        super().__init__(model, verbose=False)
        self.bad, self.seen = batches, 0

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        result: dict[str, Tensor] = super().forward(images, labels)
        if self.seen in self.bad:
            result["loss"] = result["loss"] + math.nan
        self.seen += 1
        return result


def lose(monkeypatch: pytest.MonkeyPatch, batches: range) -> None:
    monkeypatch.setitem(METHODS, "vanilla", lambda model, *settings: LosesItsLoss(batches, model))


STILL = {"method": "vanilla", "optimizer": "sgd", "weight_decay": 0.0, "warmup_epochs": 0}


def test_a_step_whose_loss_is_not_finite_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_run(tmp_path / "start", **STILL, max_steps=1, lr=1e-30)
    small_run(tmp_path / "taken", **STILL, max_steps=1)
    lose(monkeypatch, range(1))
    small_run(tmp_path / "lost", **STILL, max_steps=1)
    start, taken, lost = (weights(tmp_path / name) for name in ("start", "taken", "lost"))
    assert all(torch.allclose(lost[name], tensor, rtol=0, atol=1e-20) for name, tensor in start.items())
    assert not all(torch.allclose(taken[name], tensor, rtol=0, atol=1e-20) for name, tensor in start.items())


def test_one_bad_batch_of_an_accumulated_step_skips_that_step_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(monkeypatch, range(3, 4))
    small_run(tmp_path / "run", **STILL, accumulation_steps=2, epochs=1)
    skipped = [r["skipped"] for r in read_records(tmp_path / "run" / "metrics.jsonl") if r["kind"] == "train"]
    assert skipped == [0, 1, 1]


def test_a_loss_that_stays_not_finite_ends_the_run_and_is_never_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(monkeypatch, range(7, 1000))
    with pytest.raises(TrainingError, match=r"not finite in 20 steps in a row.*last good checkpoint"):
        small_run(tmp_path / "run", **STILL, epochs=5)
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert find_checkpoint("auto", tmp_path / "run" / "checkpoints") is not None
