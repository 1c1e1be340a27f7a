"""Compare the CPU time of inference and of training steps with and without keeping freed memory in the process.

    python benchmarks/allocator.py            # measure, append to results/allocator.jsonl, write the table
    python benchmarks/allocator.py --report   # only write the table in benchmarks/speed.md

`ssia_zoo.allocator` is in effect for a whole process, so each measurement is a process of its own, on one thread, on
random images; those with and without it take turns. Ratios are taken round by round.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from functools import partial

import timm
import torch
import tyro
from recording import (
    BENCHMARKS,
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

from ssia_zoo.allocator import keep_freed_memory

RECORDS = RESULTS / "allocator.jsonl"
REPORT = BENCHMARKS / "speed.md"
STEPS = 4


@dataclass(frozen=True)
class Case:
    """A network and its batch."""

    arch: str
    image_size: int
    batch_size: int


CASES = [
    Case("tf_efficientnet_lite0", image_size=224, batch_size=32),
    Case("resnet50", image_size=224, batch_size=16),
    Case("vit_small_patch16_224", image_size=224, batch_size=16),
    Case("resnet18", image_size=32, batch_size=128),
]


@dataclass(frozen=True)
class Settings:
    """Compare the CPU time of inference and training with and without keeping freed memory."""

    report: bool = False
    """only write the table"""
    rounds: int = 4
    """turns of each"""
    kept: bool | None = None
    """measure one case in this process and print it; for the processes that the benchmark starts"""
    case: int = 0
    """which case that is"""


def measure_here(case: Case, kept: bool) -> None:
    """Print the CPU seconds per step of inference and training in this process, and its peak memory in MB."""
    if kept and not keep_freed_memory():
        sys.exit("this system has no glibc")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = timm.create_model(case.arch).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    images = torch.randn(case.batch_size, 3, *[case.image_size] * 2).contiguous(memory_format=torch.channels_last)

    def infer() -> None:
        model.eval()
        with torch.inference_mode():
            model(images)

    def train() -> None:
        model.train()
        model(images).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    seconds = {}
    for name, step in (("inference", infer), ("training", train)):
        step()
        before = resource.getrusage(resource.RUSAGE_SELF)
        for _ in range(STEPS):
            step()
        after = resource.getrusage(resource.RUSAGE_SELF)
        seconds[name] = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / STEPS
    print(json.dumps({**seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def measure_in_process(number: int, kept: bool) -> Record:
    command = [sys.executable, __file__, "--kept", str(kept), "--case", str(number)]
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    result: Record = json.loads(subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout)
    return result


def measure(number: int, rounds: int) -> Record:
    """Measure a case with and without in turns."""
    load = os.getloadavg()[0]
    turns = in_turns({kept: partial(measure_in_process, number, kept) for kept in (False, True)}, rounds, warm_up=False)
    pairs = list(zip(turns[False], turns[True], strict=True))
    return {
        "benchmark": "allocator",
        "settings": {**asdict(CASES[number]), "rounds": rounds, "steps": STEPS, "threads": 1},
        "speedup": {name: quartiles([a[name] / b[name] for a, b in pairs]) for name in ("inference", "training")},
        "peak_mb": [round(statistics.median(run["peak_mb"] for run in turns[kept])) for kept in (False, True)],
        **environment(load),
    }


def table(records: list[Record]) -> list[str]:
    """Format the newest record of each case as Markdown."""
    lines = ["| network | inference, times as fast | training, times as fast | peak memory, MB |", "|---|---|---|---|"]
    for record in records:
        settings = record["settings"]
        cells = ["{1:.2f} ({0:.2f}–{2:.2f})".format(*record["speedup"][name]) for name in ("inference", "training")]
        name = f"`{settings['arch']}`, {settings['image_size']} px, batch {settings['batch_size']}"
        lines.append(f"| {name} | {' | '.join(cells)} | {' → '.join(map(str, record['peak_mb']))} |")
    last = records[-1]
    return [
        *lines,
        "",
        f"CPU time, median (quartiles) of {last['settings']['rounds']} rounds of {STEPS} steps, 1 thread, seed 0, "
        f"{last['time'][:10]}; torch {last['versions']['torch']}, timm {last['versions']['timm']}; "
        f"{machine_text(last['machine'])}.",
    ]


def main(settings: Settings) -> None:
    if settings.kept is not None:
        measure_here(CASES[settings.case], settings.kept)
        return
    if not settings.report:
        for number in range(len(CASES)):
            append_record(RECORDS, measure(number, settings.rounds))
    newest = {record["settings"]["arch"]: record for record in read_results(RECORDS)}
    replace_table(REPORT, "allocator", table(list(newest.values())))


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
