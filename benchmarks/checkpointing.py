"""Measure for how long saving a checkpoint stops the training, and how long it takes to write it.

    python benchmarks/checkpointing.py            # measure, append to results/checkpointing.jsonl, write the table
    python benchmarks/checkpointing.py --report   # only write the table in benchmarks/speed.md

A checkpoint is a network's weights and AdamW's state. Saving stops the training while it is copied; it is then written,
hashed and flushed to the disk in a background thread, which is waited for here before the next one. Times are CPU times
of the two threads, which other load on the machine changes little.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
import tyro
from accelerate import Accelerator
from recording import (
    BENCHMARKS,
    RESULTS,
    Record,
    append_record,
    environment,
    machine_text,
    quartiles,
    read_results,
    replace_table,
)

from ssia_zoo.allocator import keep_freed_memory
from ssia_zoo.training.saving import CheckpointSaver
from ssia_zoo.training.snapshot import Checkpointed

RECORDS = RESULTS / "checkpointing.jsonl"
REPORT = BENCHMARKS / "speed.md"
NETWORKS = ("resnet18", "resnet50")


@dataclass(frozen=True)
class Settings:
    """Measure what saving a checkpoint takes."""

    report: bool = False
    """only write the table"""
    rounds: int = 7
    """checkpoints of each network, after a first one that does not count"""


def measure(network: str, rounds: int, accelerator: Accelerator) -> Record:
    """Save checkpoints one after another, each when the one before is on disk."""
    load = os.getloadavg()[0]
    torch.manual_seed(0)
    keep_freed_memory()  # as training does
    model = timm.create_model(network).to(accelerator.device)
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    checkpointed = Checkpointed(accelerator, model, optimizer, {})
    blocked, total = [], []
    with tempfile.TemporaryDirectory() as folder:
        saver = CheckpointSaver(Path(folder), keep=1)
        for step in range(rounds + 1):
            begin, begin_all = time.thread_time(), time.process_time()
            saver.save(checkpointed, step, {})
            blocked.append(time.thread_time() - begin)
            saver.wait()
            total.append(time.process_time() - begin_all)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    return {
        "benchmark": "checkpointing",
        "settings": {"network": network, "rounds": rounds, "optimizer": "adamw", "device": str(accelerator.device)},
        "megabytes": round(size / 1e6),
        "blocked_seconds": quartiles(blocked[1:]),
        "seconds": quartiles(total[1:]),
        "share": quartiles([part / whole for part, whole in zip(blocked[1:], total[1:], strict=True)]),
        **environment(load),
    }


def table(records: list[Record]) -> list[str]:
    """Format the newest record of each network as Markdown."""
    lines = [
        "| network | checkpoint, MB | training stops, s | copying and writing, s | share |",
        "|---|---|---|---|---|",
    ]
    for record in records:
        cells = ["{1:.3f} ({0:.3f}–{2:.3f})".format(*record[name]) for name in ("blocked_seconds", "seconds")]
        share = "{1:.1f} % ({0:.1f}–{2:.1f})".format(*(100 * value for value in record["share"]))
        lines.append(f"| `{record['settings']['network']}` | {record['megabytes']} | {' | '.join(cells)} | {share} |")
    last = records[-1]
    return [
        *lines,
        "",
        f"CPU time, median (quartiles) of {last['settings']['rounds']} checkpoints, {last['settings']['device']}, "
        f"1 thread, seed 0, "
        f"{last['time'][:10]}; torch {last['versions']['torch']}; {machine_text(last['machine'])}.",
    ]


def main(settings: Settings) -> None:
    if not settings.report:
        torch.set_num_threads(1)
        accelerator = Accelerator()
        for network in NETWORKS:
            append_record(RECORDS, measure(network, settings.rounds, accelerator))
    newest = {record["settings"]["network"]: record for record in read_results(RECORDS)}
    replace_table(REPORT, "checkpointing", table(list(newest.values())))


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
