"""Turn system failures (out of memory, full disk, lost processes) into one-line errors with a fix."""

from __future__ import annotations

import errno
import re
import shutil
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ssia_zoo.data.config import height_width
from ssia_zoo.errors import SSIAZooError, TrainingError, one_line
from ssia_zoo.loss import AuxiliaryLoss
from ssia_zoo.loss.objectives import describe_error
from ssia_zoo.training.config import TrainConfig

_RESUME = "--resume auto continues from the last checkpoint, if there is one"
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_MEMORY = re.compile(
    r"can't allocate memory|not enough memory|out of memory|std::bad_alloc|cannot allocate memory", re.I
)
_DEAD_WORKER = re.compile(r"DataLoader worker \(pid.*?(?=\. |$)")
_NO_SHARED_MEMORY = re.compile(
    r"unable to (resize file|allocate shared memory\(shm\) for file|mmap \d+ bytes from file) </torch_.*"
)
_COLLECTIVE = re.compile(r"connection (closed|reset|refused|was)|timed? ?out|broken pipe|gloo|nccl", re.I)

_LOADER = "torch.utils.data.dataloader"


@contextmanager
def translate_errors(config: TrainConfig) -> Iterator[None]:
    """Turn known errors of torch, the operating system and others' losses into a `TrainingError`; let others pass.

    Args:
        config: Settings of the run, which the advice refers to.
    """
    try:
        yield
    except SSIAZooError:
        raise
    except (RuntimeError, MemoryError, OSError, EOFError) as error:
        message = _translate(error, config) or _raised_by_objective(error, config)
        if message is None:
            raise
        raise TrainingError(message) from error
    except Exception as error:
        if (message := _raised_by_objective(error, config)) is None:
            raise
        raise TrainingError(message) from error


def _raised_by_objective(error: Exception, config: TrainConfig) -> str | None:
    """Describe an error that came up in an objective of another package; None for other errors."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        loss = type(frame.f_locals.get("self"))
        if issubclass(loss, AuxiliaryLoss) and not loss.__module__.startswith("ssia_zoo."):
            return f"`method` {config.method}: {loss.__name__} raised {describe_error(error)}"
    return None


def is_dead_worker(error: Exception) -> bool:
    """Return whether a data loading worker ended; torch raises this wherever the run happens to be."""
    return isinstance(error, RuntimeError) and _DEAD_WORKER.search(one_line(error)) is not None


def is_lost_process(error: Exception) -> bool:
    """Return whether torch.distributed lost another process; OSErrors come from files and other connections."""
    if isinstance(error, torch.distributed.DistError):
        return True
    return type(error) is RuntimeError and _distributed() and _COLLECTIVE.search(one_line(error)) is not None


def _in_transfer(error: Exception) -> bool:
    """Return whether an error came up while torch received a batch from a worker, rather than in the worker."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(f.f_code.co_name == "_try_get_data" and f.f_globals["__name__"] == _LOADER for f in frames)


def _translate(error: Exception, config: TrainConfig) -> str | None:
    text = one_line(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or _NO_MEMORY.search(text):
        return out_of_memory(text, config)
    if full := _NO_SHARED_MEMORY.search(text):
        return (
            f"no shared memory for a batch: {full.group()}; enlarge /dev/shm (or the limit on file sizes), or lower "
            f"`workers` (now {config.workers}; 0 needs none); {_RESUME}"
        )
    dead = _DEAD_WORKER.search(text)
    if dead or (isinstance(error, EOFError | ConnectionError) and _in_transfer(error)):
        shared = "/dev/shm may be too small: enlarge it, or " if "Bus error" in text else ""
        reason = dead.group() if dead else text
        return (
            f"a data loading worker ended: {reason}; {shared}lower `workers` (now {config.workers}) if memory is "
            f"short; {_RESUME}"
        )
    if is_lost_process(error):
        return f"another process of this run ended or cannot be reached ({text[:200]}); see its own message; {_RESUME}"
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        free = shutil.disk_usage(config.output_dir).free / 1e6
        return f"disk full: {text}; {free:.0f} MB are free at {config.output_dir}: free some space; {_RESUME}"
    if _from_compilation(error):
        return (
            f"`compile` (or the launcher's dynamo backend) failed: {text[:300]}; leave it out, or set another "
            "`compile_backend`, such as aot_eager, which needs no compiler; TORCHDYNAMO_VERBOSE=1 says more"
        )
    return None


def _from_compilation(error: Exception) -> bool:
    dynamo: Any = sys.modules.get("torch._dynamo.exc")  # imported by what compiles
    return dynamo is not None and isinstance(error, dynamo.TorchDynamoException)


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def out_of_memory(text: str, config: TrainConfig, fitting: int = 0) -> str:
    """Return one line with a fix.

    Args:
        text: The error.
        config: Settings of the run.
        fitting: A smaller batch size whose training steps fit in memory; 0 if none is known.
    """
    asked = re.search(r"tried to allocate ([\d.]+ ?\w+)", text, re.I)
    size = f" of {'x'.join(map(str, height_width(config.image_size)))}" if config.image_size else ""
    advice = []
    even = config.batch_size % (4 if config.mixup or config.cutmix else 2) == 0  # mixup takes even batches
    smaller = fitting or (config.batch_size // 2 if even else 0)
    if smaller:
        steps = config.batches_per_step * config.batch_size // smaller
        advice.append(f"--batch-size {smaller} --accumulation-steps {steps}, for the same global batch")
    if not config.grad_checkpointing:
        advice.append("`grad_checkpointing`")
    if config.workers > 0:
        advice.append(f"fewer `workers` than {config.workers}")
    advice.append("a smaller `image_size`")
    return (
        f"out of memory{f' (asked for {asked.group(1)} more)' if asked else ''} with batches of {config.batch_size} "
        f"images{size}{f', while {fitting} fit' if fitting else ''}; in a new `output_dir`, try: {', or '.join(advice)}"
    )
