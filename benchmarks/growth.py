"""Measure what grows with the number of images, classes and processes, and project a run that is too large to measure.

    python benchmarks/growth.py                    # measure, append to results/growth.jsonl, write the tables
    python benchmarks/growth.py --parts classes    # measure one part again
    python benchmarks/growth.py --report           # only write the tables in docs/scaling.md

Times are CPU time (user and system) of the processes, since other work on the machine lengthens elapsed time.
Images are hard links to 1,000 small files in a temporary folder, which is removed. Classes and processes are measured
in forked processes with one thread each, on random images in memory. The last record of each part is shown.
"""

from __future__ import annotations

import os
import resource
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import timm
import torch
import torch.distributed as dist
import tyro
from growth_report import write_tables
from recording import (
    DOCS,
    METHODS,
    RESULTS,
    Record,
    append_record,
    environment,
    read_results,
)
from startup import make_folder
from startup import measure as measure_startup
from timm.optim import create_optimizer_v2
from timm.task import ClassificationTask, TrainingTask
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from ssia_zoo.task import SSIATask

RECORDS = RESULTS / "growth.jsonl"
REPORT = DOCS / "scaling.md"
PARTS = ("images", "classes", "processes")
DIFFERENT = 1000
"""Files; the other images are links to them."""


@dataclass
class Settings:
    """Measure what grows with the number of images, classes and processes."""

    parts: tuple[str, ...] = PARTS
    """what to measure"""
    images: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    """images in a folder"""
    classes: tuple[int, ...] = (10, 100, 1_000, 5_000, 20_000)
    """outputs of the classifier"""
    processes: tuple[int, ...] = (1, 2, 3, 4)
    """processes (DDP, gloo)"""
    arch: str = "mobilenetv3_small_050"
    """timm architecture"""
    image_size: int = 64
    """height and width in pixels"""
    batch_size: int = 32
    """images per process and step"""
    steps: int = 7
    """steps to take the median of, after two others"""
    report: bool = False
    """only write the tables"""


def images(settings: Settings) -> list[Record]:
    """Measure the start of training on folders of images: CPU seconds and memory."""
    rows = []
    for number in settings.images:
        with tempfile.TemporaryDirectory() as folder:
            make_folder(Path(folder), number, DIFFERENT)
            rows.append(measure_startup(Path(folder), rounds=1 if number >= 1_000_000 else 2))
        print(rows[-1], flush=True)
    return rows


def classes(settings: Settings) -> list[Record]:
    """Measure start, step and memory of a model and its loss, each in a process of its own."""
    rows = []
    for number in settings.classes:
        for method in METHODS:
            [row] = in_processes(1, _classes_child, settings, method, number)
            rows.append({"classes": number, "method": method, **row})
            print(rows[-1], flush=True)
    return rows


def processes(settings: Settings) -> list[Record]:
    """Measure the CPU time of a step of each process, and the bytes of gradients that it exchanges."""
    rows = []
    for number in settings.processes:
        for method in METHODS:
            found = in_processes(number, _processes_child, settings, method, number, _free_port())
            row = {name: statistics.median(child[name] for child in found) for name in found[0]}
            rows.append({"processes": number, "method": method, **row})
            print(rows[-1], flush=True)
    return rows


def _classes_child(rank: int, settings: Settings, method: str, number: int) -> Record:
    before, clock = _peak_mb(), time.process_time()
    task = _task(settings, method, number)
    start = time.process_time() - clock
    cpu = _step_cpu(task, task.trainable_module, settings, number)
    sizes = {"parameters": sum(p.numel() for p in task.trainable_module.parameters())}
    return {"start": round(start, 3), "step_ms": cpu, "peak_mb": _peak_mb(), "imports_mb": before, **sizes}


def _processes_child(rank: int, settings: Settings, method: str, number: int, port: int) -> Record:
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=number)
    task = _task(settings, method, 10)
    sent = [0]

    def count(state, bucket):  # type: ignore[no-untyped-def]  # DDP refuses annotations that are strings
        sent[0] += bucket.buffer().nbytes
        return allreduce_hook(dist.group.WORLD, bucket)

    wrapped = DistributedDataParallel(task.trainable_module)
    wrapped.register_comm_hook(None, count)
    task.trainable_module = wrapped
    cpu = _step_cpu(task, wrapped, settings, 10)
    dist.destroy_process_group()
    return {"step_ms": cpu, "megabytes": sent[0] / (settings.steps + 2) / 1e6}


def _task(settings: Settings, method: str, number: int) -> TrainingTask:
    torch.manual_seed(0)
    model = timm.create_model(settings.arch, num_classes=number)
    size = (3, settings.image_size, settings.image_size)
    return ClassificationTask(model, verbose=False) if method == "vanilla" else SSIATask(model, input_size=size)


def _step_cpu(task: TrainingTask, trained: torch.nn.Module, settings: Settings, number: int) -> float:
    """Return the median CPU milliseconds of a step of this process, all threads included."""
    optimizer = create_optimizer_v2(trained, "adamw", 1e-3, 0.05)
    size = (settings.batch_size, 3, settings.image_size, settings.image_size)
    batch, labels = torch.randn(size), torch.randint(number, size[:1])
    task.train()
    times = []
    for _ in range(settings.steps + 2):
        clock = time.process_time()
        task(batch, labels)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(1000 * (time.process_time() - clock))
    return round(statistics.median(times[2:]), 2)


def in_processes(number: int, function: Callable[..., Record], *arguments: Any) -> list[Record]:
    """Call a function in forked processes at the same time, with its rank first; return the results by rank."""
    context = get_context("fork")  # everything is imported already
    pipes = [context.Pipe(duplex=False) for _ in range(number)]
    children = [
        context.Process(target=_child, args=(sender, function, rank, *arguments))
        for rank, (_, sender) in enumerate(pipes)
    ]
    for child, (_, sender) in zip(children, pipes, strict=True):
        child.start()
        sender.close()  # or a child that failed would be waited for
    results = [receiver.recv() for receiver, _ in pipes]
    for child in children:
        child.join()
    return results


def _child(sender: Connection, function: Callable[..., Record], rank: int, *arguments: Any) -> None:
    torch.set_num_threads(1)
    sender.send(function(rank, *arguments))


def _peak_mb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def main(settings: Settings) -> None:
    """Measure the parts, and write the tables of their last records."""
    measures = {"images": images, "classes": classes, "processes": processes}
    torch.set_num_threads(1)
    for part in () if settings.report else settings.parts:
        load = os.getloadavg()[0]
        rows = measures[part](settings)
        append_record(RECORDS, {"part": part, "settings": asdict(settings), "rows": rows, **environment(load)})
    found = {record["part"]: record for record in read_results(RECORDS)}
    write_tables(REPORT, found)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
