"""Compare complete training steps, data loading included: train_hf.py, timm's train.py, a bare loop.

    python benchmarks/throughput.py                                          # bound by computation
    python benchmarks/throughput.py --arch test_resnet --photo-size 512 384  # bound by data
    python benchmarks/throughput.py --report                                 # only write the tables in speed.md

Results are appended to results/throughput.jsonl. All loops read the same folder of generated JPEGs, with one recipe.
timm's train.py is in its repository, not in its source distribution (as of 1.0.31); `--timm-train FILE` runs that file,
unchanged. It should be of the version of timm that is installed:

    git clone --depth 1 --branch v1.0.31 https://github.com/huggingface/pytorch-image-models

"parts" is a loop made of the same parts of timm (benchmarks/loops.py), which SSIA fits in too.

Each loop runs in a separate process, vanilla and with SSIA. The processes take turns in a shuffled order while the
others wait, so that other load affects them alike. Ratios are taken within a round; the tables give their median and
quartiles, for wall time and for CPU time, which does not include waiting for other processes.

Peak memory is measured separately, in new processes whose allocator returns freed memory at once, so that the peak is
that of live tensors. The memory that a process has before its loop starts is subtracted.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import tyro
from loops import LOOPS, PHASES, Setup, run_in_turns
from photos import photo_folder
from recording import (
    BENCHMARKS,
    METHODS,
    RESULTS,
    Record,
    append_record,
    environment,
    in_turns,
    machine_text,
    quartiles,
    read_results,
    replace_table,
)

RECORDS = RESULTS / "throughput.jsonl"
REPORT = BENCHMARKS / "speed.md"
PAIRS = {
    "ours / timm's train.py, vanilla": (["ours vanilla"], ["timm vanilla"]),
    "ours / timm's parts, vanilla": (["ours vanilla"], ["parts vanilla"]),
    "ours / timm's parts, SSIA": (["ours ssia"], ["parts ssia"]),
    "ours / timm's parts, both": (["ours vanilla", "ours ssia"], ["parts vanilla", "parts ssia"]),
    "ours / bare, both": (["ours vanilla", "ours ssia"], ["bare vanilla", "bare ssia"]),
    "SSIA / vanilla, ours": (["ours ssia"], ["ours vanilla"]),
    "SSIA / vanilla, all loops": ([f"{loop} ssia" for loop in LOOPS], [f"{loop} vanilla" for loop in LOOPS]),
}
_SHARED = ("arch", "classes", "image_size", "batch_size", "seed", "threads", "steps")

Turn = dict[str, float]


@dataclass
class Settings:
    """Compare complete training steps: train_hf.py, timm's train.py, a bare loop."""

    arch: str = "resnet18"
    """timm architecture"""
    timm_train: Path | None = None
    """timm's train.py; without it, only the loop made of its parts is timed"""
    photo_size: tuple[int, int] = (96, 96)
    """width and height of the JPEGs"""
    classes: int = 100
    """number of classes"""
    image_size: int = 64
    """height and width in pixels"""
    batch_size: int = 32
    """images per step"""
    rounds: int = 20
    """turns of each process"""
    steps: int = 1
    """optimizer steps per turn"""
    threads: int = 1
    """threads of each process"""
    seed: int = 0
    """seed of weights, data order and turns"""
    memory_turns: int = 3
    """turns of each process for measuring memory; 0 skips memory"""
    report: bool = False
    """only write the tables"""


class Process:
    """One loop in a separate process, paused between its turns."""

    def __init__(self, name: str, setup: Setup, free_at_once: bool = False) -> None:
        fork = multiprocessing.get_context("fork")
        self.name = name
        self.log = Path(setup.folder) / f"{name}.log"
        self.pipe, theirs = fork.Pipe()
        self.process = fork.Process(
            target=run_in_turns, args=(*name.split(), setup, theirs, str(self.log), free_at_once), daemon=True
        )
        self.process.start()
        theirs.close()

    def turn(self) -> Turn:
        """Run one turn and return milliseconds per step and peak memory in MB."""
        try:
            self.pipe.send(True)
            turn: Turn = self.pipe.recv()
        except (EOFError, BrokenPipeError):
            raise SystemExit(f"{self.name} ended: {self.log.read_text()[-2000:]}") from None
        return turn

    def close(self) -> None:
        """Stop the process, in the middle of an epoch; train_hf.py would go on to the next step after SIGTERM."""
        self.process.kill()
        self.process.join()


def measure(settings: Settings) -> Record:
    """Time every turn of each (loop, method), and measure peak memory."""
    names = [f"{loop} {method}" for loop in LOOPS for method in METHODS]
    names += ["timm vanilla"] if settings.timm_train else []
    load, script = os.getloadavg()[0], settings.timm_train
    with tempfile.TemporaryDirectory() as folder:
        most = 1 + max(settings.rounds, settings.memory_turns)
        images = settings.batch_size * max(200, settings.steps * most + 2)  # long enough for records as in a real run
        dataset = photo_folder(Path(folder), images, settings.classes, settings.photo_size)
        shared = {name: getattr(settings, name) for name in _SHARED}
        setup = Setup(**shared, dataset=str(dataset), folder=folder, timm_train=script and str(script))
        processes = {name: Process(name, setup) for name in names}
        try:
            turns = in_turns(
                {name: process.turn for name, process in processes.items()}, settings.rounds, settings.seed
            )
        finally:
            for process in processes.values():
                process.close()
        memory = {name: peak(name, setup, settings.memory_turns) for name in names if settings.memory_turns}
    return {
        "benchmark": "throughput",
        "settings": {**asdict(settings), "timm_train": script and sha256(script.read_bytes()).hexdigest()},
        "steps": {name: medians(turns[name]) for name in names},
        "ratios": {
            title: {clock: quartiles(ratios(turns, above, below, clock)) for clock in ("wall", "cpu")}
            for title, (above, below) in PAIRS.items()
            if {*above, *below} <= turns.keys()
        },
        "cpu_ms": {name: [round(turn["cpu"], 1) for turn in turns[name]] for name in names},
        "memory": memory,
        **environment(load),
    }


def ratios(turns: dict[str, list[Turn]], above: list[str], below: list[str], clock: str) -> list[float]:
    """Return the time of some processes divided by that of others, round by round."""
    rounds = range(len(turns[above[0]]))
    return [sum(turns[n][r][clock] for n in above) / sum(turns[n][r][clock] for n in below) for r in rounds]


def peak(name: str, setup: Setup, turns: int) -> float:
    """Return the peak memory of a loop in MB."""
    process = Process(name, setup, free_at_once=True)
    needed = max(process.turn()["peak_mb"] for _ in range(turns))
    process.close()
    return round(needed, 1)


def medians(turns: list[Turn]) -> dict[str, float]:
    """Return the median of each time over the rounds."""
    return {name: round(statistics.median(turn[name] for turn in turns), 3) for name in ("wall", "cpu", *PHASES)}


def table(record: Record) -> list[str]:
    """Format a record as Markdown."""
    settings = record["settings"]
    lines = [
        f"### `{settings['arch']}` at {settings['image_size']} px, batch {settings['batch_size']}, {_data(settings)}",
        "",
        "| ratio: median (quartiles) | CPU time | wall time |",
        "|---|---|---|",
    ]
    for title, clocks in record["ratios"].items():
        cells = [f"{middle:.3f} ({low:.2f}–{high:.2f})" for low, middle, high in (clocks["cpu"], clocks["wall"])]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    lines += ["", "| CPU time, ms per step | all | " + " | ".join(PHASES) + " |", "|---" * 8 + "|"]
    for name, step in record["steps"].items():
        lines.append(f"| {name} | " + " | ".join(f"{step[phase]:.1f}" for phase in ("cpu", *PHASES)) + " |")
    if memory := record["memory"]:
        ours = memory["ours ssia"] / memory["ours vanilla"]
        peaks = ", ".join(f"{name} {value:.0f}" for name, value in memory.items())
        lines += ["", f"Peak memory above that before the loop, MB: {peaks}; SSIA / vanilla, ours: {ours:.3f}."]
    lines += [
        "",
        f"{settings['rounds']} rounds of {settings['steps']} step, "
        f"{settings['threads']} thread, seed {settings['seed']}, {record['time'][:10]}; "
        f"torch {record['versions']['torch']}, timm {record['versions']['timm']}; {machine_text(record['machine'])}. A "
        "ratio that differs from 1 by less than the width of its quartiles shows no difference.",
        "",
    ]
    return lines


def _data(settings: Record) -> str:
    """Describe the images; records of older versions name a data set."""
    return "JPEGs of {}x{}".format(*settings["photo_size"]) if "photo_size" in settings else str(settings["dataset"])


def main(settings: Settings) -> None:
    if settings.timm_train is not None and not settings.timm_train.is_file():
        raise SystemExit(f"--timm-train {settings.timm_train}: no such file; expected timm's train.py (see --help)")
    if not settings.report:
        append_record(RECORDS, measure(settings))
    newest = {(record["settings"]["arch"], _data(record["settings"])): record for record in read_results(RECORDS)}
    replace_table(REPORT, "throughput", [line for record in newest.values() for line in table(record)][:-1])


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
