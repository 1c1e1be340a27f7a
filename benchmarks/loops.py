"""The training loops that throughput.py compares, each run in a separate process that takes turns with the others.

A turn is a number of optimizer steps. It ends in a hook that torch calls after every optimizer step: there the process
reports its times and waits for the next turn. The loops themselves are not changed for the measurement.

The processes are forked from one that has imported everything, since imports would take longer than the measurement.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import runpy
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import timm
import torch
from accelerate.data_loader import DataLoaderShard
from timm.data import create_dataset, create_loader
from timm.data.loader import PrefetchLoader
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.task import ClassificationTask, TrainingTask
from timm.utils.metrics import AverageMeter
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.data import DataLoader

from ssia_zoo.data import DataConfig, DeviceTransform, load_image_data, train_loader
from ssia_zoo.data.preprocessing import with_default_preprocessing
from ssia_zoo.loss.ssia import SSIALoss
from ssia_zoo.task import AuxiliaryTask, AuxiliaryTrainableModule, SSIATask
from ssia_zoo.training import parse_config, train

LOOPS = ("bare", "parts", "ours")
"""Our data, loss and optimizer alone; a loop made of the parts of timm's train.py; train_hf.py."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h
PHASES = ("data", "forward", "loss", "backward", "optimizer", "rest")


@dataclass(frozen=True)
class Setup:
    """Training settings of all loops."""

    arch: str
    dataset: str
    """folder with train/ and validation/"""
    classes: int
    image_size: int
    batch_size: int
    seed: int
    threads: int
    steps: int
    """optimizer steps per turn"""
    folder: str
    """folder for the output of the loops"""
    timm_train: str | None
    """timm's train.py"""

    @property
    def data_config(self) -> DataConfig:
        """Default augmentation, without workers: those would run during the turns of other processes."""
        return DataConfig(
            dataset=self.dataset, image_size=self.image_size, batch_size=self.batch_size, workers=0, max_eval_images=2
        )


class Clock:
    """CPU time of each phase; a phase inside another one is not counted twice."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self._open: list[str] = ["rest"]
        self._since = time.process_time()

    def enter(self, phase: str) -> None:
        """Start a phase."""
        self._charge()
        self._open.append(phase)

    def leave(self) -> None:
        """Return to the previous phase."""
        self._charge()
        self._open.pop()

    def take(self) -> dict[str, float]:
        """Return the seconds of each phase since the last call."""
        self._charge()
        taken, self.seconds = self.seconds, dict.fromkeys(PHASES, 0.0)
        return taken

    def _charge(self) -> None:
        now = time.process_time()
        self.seconds[self._open[-1]] += now - self._since
        self._since = now

    def timed(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function so that its time counts for a phase."""

        @wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            self.enter(phase)
            try:
                return function(*args, **kwargs)
            finally:
                self.leave()

        return wrapper

    def timed_iteration(self, iterate: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        """Wrap an `__iter__` so that the time to get each item counts for "data"."""

        def wrapper(loader: Any) -> Iterator[Any]:
            iterator = iterate(loader)
            fetch = self.timed("data", lambda: next(iterator, None))
            while (item := fetch()) is not None:
                yield item

        return wrapper


def time_phases(clock: Clock, arch: str) -> None:
    """Patch the classes and hooks that all loops use, so that their time counts for its phase."""
    for loader in (DataLoader, DataLoaderShard, PrefetchLoader):
        loader.__iter__ = clock.timed_iteration(loader.__iter__)
    model = type(timm.create_model(arch))
    phases = {
        "forward": ((model, "forward"), (AuxiliaryTrainableModule, "forward")),
        "loss": ((SSIALoss, "forward"), (AuxiliaryTask, "forward"), (ClassificationTask, "forward")),
        "backward": ((torch.Tensor, "backward"),),
    }
    for phase, places in phases.items():
        for owner, name in places:
            setattr(owner, name, clock.timed(phase, getattr(owner, name)))
    register_optimizer_step_pre_hook(lambda *_: clock.enter("optimizer"))
    register_optimizer_step_post_hook(lambda *_: clock.leave())


class Turns:
    """Ends each turn after some optimizer steps, in a hook of the optimizer."""

    def __init__(self, clock: Clock, steps: int, pipe: Connection) -> None:
        self.clock = clock
        self.steps = steps
        self.pipe = pipe
        self.before = peak_mb()
        self.done = 0
        self._begin()

    def _begin(self) -> None:
        self.pipe.recv()
        self.clock.take()
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def after_step(self, *_: Any) -> None:
        """Report the turn's times when it is over, and wait for the next one."""
        self.done += 1
        if self.done % self.steps:
            return
        taken = {"wall": time.perf_counter() - self.wall, "cpu": time.process_time() - self.cpu, **self.clock.take()}
        per_step = {name: 1000 * seconds / self.steps for name, seconds in taken.items()}
        self.pipe.send({**per_step, "peak_mb": peak_mb() - self.before})
        self._begin()


def peak_mb() -> float:
    """Return the peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def make_task(setup: Setup, method: str, classes: int) -> TrainingTask:
    """Create the model and its objective as train_hf.py does."""
    model = timm.create_model(setup.arch, num_classes=classes)
    if method == "vanilla":
        return ClassificationTask(model, verbose=False)
    return SSIATask(model, input_size=(3, setup.image_size, setup.image_size))


def statistics(setup: Setup) -> dict[str, Any]:
    """Return the mean and standard deviation that the model expects."""
    cfg = timm.get_pretrained_cfg(setup.arch)
    return {"mean": cfg.mean, "std": cfg.std}


def bare(setup: Setup, method: str) -> None:
    """Run only the training step, as a lower limit, with our data loader."""
    data = load_image_data(setup.data_config)
    torch.manual_seed(setup.seed)
    task = make_task(setup, method, len(data.label_names))
    optimizer = create_optimizer_v2(task.trainable_module, "adamw", 1e-3, 0.05)
    task.train()
    on_device = DeviceTransform(setup.data_config, **statistics(setup))
    for batch in train_loader(data, setup.data_config, seed=setup.seed, **statistics(setup)):
        images, labels, _ = on_device(batch)
        loss = task(images, labels)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def timms(setup: Setup, method: str) -> None:
    """Run timm's own train.py, unchanged, with the settings of the other loops."""
    if setup.timm_train is None or method != "vanilla":
        raise ValueError("timm's train.py trains vanilla, from the file `timm_train`")
    statistic = {name: [str(value) for value in values] for name, values in statistics(setup).items()}
    flags = {
        "--model": [setup.arch],
        "--data-dir": [setup.dataset],
        "--num-classes": [str(setup.classes)],
        "--img-size": [str(setup.image_size)],
        "--batch-size": [str(setup.batch_size)],
        "--mean": statistic["mean"],
        "--std": statistic["std"],
        "--opt": ["adamw"],
        "--lr": ["1e-3"],
        "--weight-decay": ["0.05"],
        "--epochs": ["1"],
        "--warmup-epochs": ["0"],
        "--sched-on-updates": [],
        "--smoothing": ["0"],
        "--color-jitter": ["0"],
        "--train-interpolation": [with_default_preprocessing(setup.data_config).interpolation or "bicubic"],
        "--workers": ["0"],
        "--seed": [str(setup.seed)],
        "--output": [str(Path(setup.folder) / f"timm_{os.getpid()}")],
    }
    choose = timm.utils.init_distributed_device

    def choose_cpu(args: argparse.Namespace) -> torch.device:
        args.device = "cpu"  # older versions have no flag for it
        return choose(args)

    timm.utils.init_distributed_device = choose_cpu
    sys.argv = ["train.py", *(word for flag, words in flags.items() for word in (flag, *words))]
    runpy.run_path(setup.timm_train, run_name="__main__")


def parts(setup: Setup, method: str) -> None:
    """Run a loop made of the parts of timm's train.py, with its prefetcher and log interval of 50.

    Mixup, EMA, gradient clipping and mixed precision are off, as by default in both scripts.
    """
    config = setup.data_config
    torch.manual_seed(setup.seed)
    task = make_task(setup, method, setup.classes)
    optimizer = create_optimizer_v2(task.trainable_module, "adamw", 1e-3, 0.05)
    loader = create_loader(
        create_dataset("", root=setup.dataset, split="train", is_training=True, batch_size=setup.batch_size),
        input_size=(3, setup.image_size, setup.image_size),
        batch_size=setup.batch_size,
        is_training=True,
        scale=config.scale,
        ratio=config.ratio,
        hflip=config.hflip,
        color_jitter=0.0,
        interpolation=with_default_preprocessing(config).interpolation,
        num_workers=0,
        device=torch.device("cpu"),
        **statistics(setup),
    )
    scheduler, _ = create_scheduler_v2(
        optimizer, "cosine", num_epochs=1, step_on_epochs=False, updates_per_epoch=len(loader)
    )
    update_time, data_time, losses = AverageMeter(), AverageMeter(), AverageMeter()
    task.train()
    optimizer.zero_grad()
    data_start = update_start = time.time()
    for index, (images, labels) in enumerate(loader):
        data_time.update(time.time() - data_start)
        loss = task(images, labels)["loss"]
        loss.backward()
        optimizer.step()
        losses.update(loss.item(), images.size(0))
        optimizer.zero_grad()
        now = time.time()
        update_time.update(now - update_start)
        update_start = now
        if index % 50 == 0:
            rates = [group["lr"] for group in optimizer.param_groups]
            print(
                f"Train: 0 [{index:>4d}/{len(loader)}]  Loss: {losses.val:#.3g} ({losses.avg:#.3g})  "
                f"Time: {update_time.val:.3f}s ({update_time.avg:.3f}s)  LR: {sum(rates) / len(rates):.3e}  "
                f"Data: {data_time.val:.3f} ({data_time.avg:.3f})",
                file=sys.stderr,
            )
        scheduler.step_update(num_updates=index + 1, metric=losses.avg)
        data_start = time.time()


def ours(setup: Setup, method: str) -> None:
    """Run train_hf.py's own code."""
    flags = {
        "--model": setup.arch,
        "--dataset": setup.dataset,
        "--image-size": setup.image_size,
        "--batch-size": setup.batch_size,
        "--method": method,
        "--max-eval-images": 2,
        "--workers": 0,
        "--epochs": 1,
        "--seed": setup.seed,
        "--output-dir": Path(setup.folder) / f"run_{method}_{os.getpid()}",
    }
    train(parse_config([str(word) for pair in flags.items() for word in pair]))


def run_in_turns(loop: str, method: str, setup: Setup, pipe: Connection, log: str, free_at_once: bool) -> None:
    """Run one loop in a forked process, turn by turn.

    Args:
        loop: One of LOOPS, or "timm" for its train.py.
        method: "vanilla" or "ssia".
        setup: Training settings.
        pipe: Receives anything to start a turn; sends the turn's milliseconds per step and peak memory.
        log: File for the output of the loop.
        free_at_once: Whether freed memory returns to the system at once, so that the peak is that of live tensors.
    """
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if free_at_once:
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 65536)
        mallopt(_M_TRIM_THRESHOLD, 0)
    torch.set_num_threads(setup.threads)
    clock = Clock()
    time_phases(clock, setup.arch)
    register_optimizer_step_post_hook(Turns(clock, setup.steps, pipe).after_step)
    {"bare": bare, "parts": parts, "timm": timms, "ours": ours}[loop](setup, method)
    raise SystemExit("the training split ended before the measurement; use a larger one or fewer rounds")
