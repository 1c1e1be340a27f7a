"""Runs in child processes that start fast: a fork server imports torch and timm once."""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
import socket
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

from ssia_zoo.training import main
from tests.helpers.runs import flags

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["ssia_zoo.training"])
_started: list[BaseProcess] = []


class Run:
    """`train_hf.py` with these settings, in one process or several (gloo), under these resource limits.

    `target` may train in another way.
    """

    def __init__(
        self,
        log: Path,
        processes: int = 1,
        limits: dict[int, int] | None = None,
        target: Callable[[list[str]], int] = main,
        **settings: object,
    ) -> None:
        self.log = log
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.ranks = []
        for rank in range(processes):
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_PORT": port}
            several = {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in place.items()}}
            environment = {"ACCELERATE_USE_CPU": "true", **(several if processes > 1 else {})}
            arguments = (target, flags(**settings), environment, log, limits or {})
            self.ranks.append(FORKED.Process(target=_train, args=arguments, daemon=False))
        for process in self.ranks:
            process.start()
        _started.extend(self.ranks)

    @property
    def running(self) -> bool:
        """Whether any process is running."""
        return any(process.is_alive() for process in self.ranks)

    def kill(self, *ranks: int) -> None:
        """Send SIGKILL to these processes, all by default."""
        for rank in ranks or range(len(self.ranks)):
            self.ranks[rank].kill()

    def signal(self, number: int, *ranks: int) -> None:
        """Send a signal to these processes, all by default."""
        for rank in ranks or range(len(self.ranks)):
            pid = self.ranks[rank].pid
            assert pid is not None
            os.kill(pid, number)

    def wait(self, timeout: float = 240) -> list[int | None]:
        """Wait for all processes and return their exit statuses; a process that hangs is killed and gives None."""
        statuses: list[int | None] = []
        for process in self.ranks:
            process.join(timeout)
            statuses.append(process.exitcode)
            if process.exitcode is None:
                process.kill()
                process.join()
        return statuses

    def output(self) -> str:
        """Return what the processes printed."""
        return self.log.read_text(errors="replace")


def end_all() -> None:
    """Kill what a failed test left running."""
    while _started:
        process = _started.pop()
        process.kill()
        process.join()


def _train(
    target: Callable[[list[str]], int],
    arguments: list[str],
    environment: dict[str, str],
    log: Path,
    limits: dict[int, int],
) -> None:
    os.environ.update(environment)
    multiprocessing.set_start_method("fork", force=True)  # for data loading workers: Linux's default up to Python 3.13
    log.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    for kind, limit in limits.items():
        if kind == resource.RLIMIT_DATA:  # on top of what is used now
            limit += int(re.findall(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) * 1024
        resource.setrlimit(kind, (limit, limit))
    sys.exit(target(arguments))
