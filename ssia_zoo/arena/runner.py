"""Run what a plan lacks: each run in a process of one device, several at a time, until all are done or time is up."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import yaml
from filelock import FileLock, Timeout

import ssia_zoo
from ssia_zoo.arena.checks import check_plan
from ssia_zoo.arena.devices import environment, find_devices
from ssia_zoo.arena.plan import Cell, Plan
from ssia_zoo.arena.records import Record, answers_path, append_line, read_records, record_failure
from ssia_zoo.arena.subsets import check_unchanged, load_splits, make_subset, subset_folder, write_sources
from ssia_zoo.arena.tuning import schedule
from ssia_zoo.arena.worker import ANSWERS, OUTCOME, RUN, SETTINGS
from ssia_zoo.errors import ConfigError, one_line, without_credentials
from ssia_zoo.files import atomic_write

_POLL_SECONDS = 0.2
_LOOK_SECONDS = 30.0
"""Between looks at the records while runs are in progress, to which other processes may append."""
_GRACE_SECONDS = 600.0
"""How long a stopped run may take to finish its step and write a checkpoint, before it is killed."""
_LOG, _SECONDS = "log.txt", "seconds.txt"
_STOPPED = {128 + number for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
_NOT_BEGUN = -signal.SIGTERM
"""Status of a run that is stopped before it handles signals."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where a plan's runs go, and how many at a time."""

    records: Path
    """JSON lines; the answers are stored in the folder `answers` beside it."""
    work: Path
    """Folder for subsets and unfinished runs."""
    data_root: Path | None = None
    """Folder that contains the data sets, a folder of parquet files each."""
    jobs: int = 1
    """Parallel runs, spread over the devices; more than there are devices share them."""
    minutes: float | None = None
    """Stop after this time."""
    models: Path | None = None
    """Keep the folder of each run here, without checkpoints, as a folder named by the run's key in the records."""


@dataclass
class Outcome:
    """What a call of `run_plan` did."""

    done: int = 0
    failed: list[str] = field(default_factory=list)
    stopped: int = 0
    """Runs that were stopped at a checkpoint."""
    left: int = 0
    """Runs of the plan that are not recorded."""


@dataclass(frozen=True)
class _Running:
    cell: Cell
    folder: Path
    device: str
    process: subprocess.Popen[bytes]
    lock: FileLock
    since: float


def run_plan(plan: Plan, options: Options, report: Callable[[str], None] = print) -> Outcome:
    """Run what is not recorded yet; a failed run is reported and does not stop the others.

    Ctrl-C and `minutes` stop the runs at a checkpoint, from which the next call continues.

    Args:
        plan: From `read_plan`.
        options: Where, and how many at a time.
        report: Takes a line for each run that ends.

    Raises:
        SSIAZooError: The plan, the data or the records cannot be used; nothing has run then.
    """
    if options.jobs < 1:
        raise ConfigError(f"`jobs` is {options.jobs}; expected at least 1")
    if options.minutes is not None and options.minutes <= 0:
        raise ConfigError(f"`minutes` is {options.minutes:g}; expected more than 0")
    deadline = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    read_records(options.records)
    check_plan(plan, options.data_root)
    _write_subsets(plan, options, report)
    return _Runner(plan, options, report, deadline).run()


def _write_subsets(plan: Plan, options: Options, report: Callable[[str], None]) -> None:
    """Write the images of every data set in a plan that are not written yet."""
    found = schedule(plan, {})
    datasets.disable_progress_bars()
    for cell in (*found.cells, *found.undecided):
        folder, name = subset_folder(cell.subset, options.work / "data"), cell.subset["dataset"]
        if folder.exists():
            check_unchanged(name, options.data_root, folder)
            continue
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if not folder.exists():
                report(f"writing the images of {cell.data}")
                write_sources(name, options.data_root, folder)
                make_subset(load_splits(name, options.data_root), cell.subset, folder)


class _Runner:
    """The loop of one call of `run_plan`."""

    def __init__(self, plan: Plan, options: Options, report: Callable[[str], None], deadline: float | None) -> None:
        self.plan, self.options, self.report, self.deadline = plan, options, report, deadline
        self.devices = find_devices()
        self.running: list[_Running] = []
        self.tried: set[str] = set()
        """keys that this call has run, or that another process is running"""
        self.outcome = Outcome()
        self._looked = -_LOOK_SECONDS

    def run(self) -> Outcome:
        with _signals_interrupt():
            try:
                while not self._is_late():
                    self._start()
                    if not self.running:
                        break
                    self._collect()
                    time.sleep(_POLL_SECONDS)
            finally:
                self._stop_all()
        records = read_records(self.options.records)
        found = schedule(self.plan, records)
        self.outcome.left = len(list(found.pending(records))) + len(found.undecided)
        return self.outcome

    def _is_late(self) -> bool:
        return self.deadline is not None and time.monotonic() > self.deadline

    def _start(self) -> None:
        """Start the next runs, on the devices with the fewest, if a run has ended or some time has passed."""
        if time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        while len(self.running) < self.options.jobs:
            records = read_records(self.options.records)
            waiting = (cell for cell in schedule(self.plan, records).pending(records) if cell.key not in self.tried)
            cell = next(waiting, None)
            if cell is None:
                return
            self.tried.add(cell.key)
            busy = Counter(running.device for running in self.running)
            device = min(self.devices, key=lambda name: busy[name])
            folder = self.options.work / cell.key
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder.with_name(f".{cell.key}.lock"))
            try:
                lock.acquire(timeout=0)
                _check_unlocked(folder / RUN)
            except Timeout:
                _unlock(lock)
                self.report(f"skipped, as another process runs it: {cell.title}")
                continue
            if cell.key in read_records(self.options.records):  # since the last look
                _unlock(lock)
                continue
            self.running.append(
                _Running(cell, folder, device, self._spawn(cell, folder, device), lock, time.monotonic())
            )

    def _spawn(self, cell: Cell, folder: Path, device: str) -> subprocess.Popen[bytes]:
        dataset = subset_folder(cell.subset, self.options.work / "data")
        settings = yaml.safe_dump({**cell.settings, "dataset": str(dataset)})
        (folder / SETTINGS).write_text(settings, encoding="utf-8")
        package = str(Path(ssia_zoo.__file__).parents[1])
        own = environment(device)
        own["PYTHONPATH"] = os.pathsep.join(filter(None, [package, own.get("PYTHONPATH")]))
        with (folder / _LOG).open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "ssia_zoo.arena.worker", str(folder)],
                env=own,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # else the terminal's Ctrl-C would reach it too, and kill its loading processes
            )

    def _collect(self) -> None:
        for running in [running for running in self.running if running.process.poll() is not None]:
            self._finish(running)

    def _finish(self, running: _Running, asked_to_stop: bool = False) -> None:
        self.running.remove(running)
        self._looked = -_LOOK_SECONDS
        cell, folder, status = running.cell, running.folder, running.process.returncode
        try:
            seconds = _add_seconds(folder / _SECONDS, time.monotonic() - running.since)
            if status == 0:
                record = self._record(cell, folder, seconds)
                self.outcome.done += 1
                self._keep_model(cell, folder / RUN)
                shutil.rmtree(folder)
                self.report(f"{cell.title}: {record['top1']:.2f} % in {seconds:.0f} s on {running.device}")
            elif status in _STOPPED or (asked_to_stop and status == _NOT_BEGUN):
                self.outcome.stopped += 1
            else:
                reason = _last_words(folder / _LOG, status)
                record_failure(self.options.records, cell.key, cell.title, reason)
                self.outcome.failed.append(f"{cell.title}: {reason}")
                self.report(f"failed: {cell.title}: {reason}")
        finally:
            _unlock(running.lock)

    def _record(self, cell: Cell, folder: Path, seconds: float) -> Record:
        outcome = json.loads((folder / OUTCOME).read_text(encoding="utf-8"))
        about = outcome.pop("environment")
        record = {
            "plan": self.plan.name,
            **{"data": cell.data, "arch": cell.arch, "method": cell.method, "seed": cell.seed},
            "evaluated_on": cell.settings["eval_split"],
            **outcome,
            "seconds": round(seconds, 1),
            "key": cell.key,
            "subset": cell.subset,
            "settings": cell.settings,
            **{name: value for name in ("tried", "tuned") if (value := getattr(cell, name)) is not None},
            "environment": {**about, "machine": platform.platform(), "threads": 1},
        }
        if (folder / ANSWERS).exists():
            target = answers_path(self.options.records, cell.key)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(folder / ANSWERS, target)
        append_line(self.options.records, record)
        return record

    def _keep_model(self, cell: Cell, run: Path) -> None:
        if self.options.models is None:
            return
        target = self.options.models / cell.key
        if target.exists():
            self.report(f"{target} exists, with the model of these settings; the new one is not kept: {cell.title}")
            return
        shutil.rmtree(run / "checkpoints", ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(run, target)

    def _stop_all(self) -> None:
        """Stop what still runs at its next checkpoint."""
        if not self.running:
            return
        self.report(f"stopping {len(self.running)} runs at a checkpoint; the same command continues them")
        for running in self.running:
            running.process.terminate()
        end = time.monotonic() + _GRACE_SECONDS
        for running in list(self.running):
            try:
                running.process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                running.process.kill()
                running.process.wait()
            self._finish(running, asked_to_stop=True)


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Let SIGTERM and SIGHUP stop the runs as Ctrl-C does, where they would end this process alone."""
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    numbers = [number for name in names if signal.getsignal(number := getattr(signal, name)) is signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        numbers = []  # Python handles signals in the main thread

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    for number in numbers:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _check_unlocked(run: Path) -> None:
    """Raise Timeout if a process trains in this folder, as the run of a call that was killed still does."""
    if run.is_dir():
        with FileLock(run / ".lock", timeout=0):
            pass


def _unlock(lock: FileLock) -> None:
    """Release a lock that may be held, and remove its file."""
    if lock.is_locked:
        # Unlink first: a call that came in between would lock a file that is then deleted, and the next call another.
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _add_seconds(path: Path, seconds: float) -> float:
    """Add to the time that earlier calls have spent on a run; return the sum."""
    with suppress(OSError, ValueError):  # none yet, or cut off by a full disk
        seconds += float(path.read_text())
    with atomic_write(path) as temporary:
        temporary.write_text(f"{seconds:.1f}", encoding="utf-8")
    return seconds


def _last_words(log: Path, status: int) -> str:
    """Return a failed run's error in one line."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    if errors:
        return without_credentials(errors[-1].removeprefix("error: "))
    if status < 0:
        return f"killed by {signal.Signals(-status).name}; its log is {log}"
    return f"{one_line(ValueError(lines[-1] if lines else 'no output'), 300)} (status {status}); its log is {log}"
