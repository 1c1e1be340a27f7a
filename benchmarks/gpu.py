"""Time training and evaluation on one GPU, and write the table in speed.md.

    benchmarks/gpu.sh --out OUT --timm-train train.py    # benchmarks/gpu.py run, with the environment it needs
    python benchmarks/gpu.py report OUT/gpu.jsonl        # add to results/gpu.jsonl, write the table

Each experiment of gpu_experiments.py runs in a new process (gpu_child.py), in the order of their value, until the time
is up: what is then left stays marked as not measured.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from gpu_child import time_steps
from gpu_experiments import FOLDERS, Experiment, experiments
from photos import photo_folder
from recording import BENCHMARKS, RESULTS, ROOT, Record, append_record, environment, read_results, replace_table

RECORDS = RESULTS / "gpu.jsonl"
REPORT = BENCHMARKS / "speed.md"
FSDP2 = ("--config_file", str(ROOT / "docs" / "launch" / "fsdp2.yaml"), "--num_processes", "1")
LAUNCHERS = {
    "python": [sys.executable],
    "torchrun": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"],
    "fsdp2": [sys.executable, "-m", "accelerate.commands.launch", *FSDP2],
}


@dataclass(frozen=True)
class Run:
    """Run the experiments and append their results to OUT/gpu.jsonl."""

    out: Path
    """folder for the results"""
    timm_train: Path | None = None
    """timm's train.py; without it, its experiments are left out"""
    minutes: float = 8.5
    """time limit; what does not fit is left out"""
    dry_run: bool = False
    """try the script on a CPU, with tiny models and a few steps"""
    only: tuple[str, ...] = ()
    """experiments to run; all by default"""


@dataclass(frozen=True)
class Report:
    """Add results to results/gpu.jsonl and write the table; without a file, only write the table."""

    file: tyro.conf.Positional[Path | None] = None
    """OUT/gpu.jsonl"""


def run(arguments: Run) -> None:
    if arguments.timm_train is not None and not arguments.timm_train.is_file():
        sys.exit(f"--timm-train {arguments.timm_train}: no such file; expected timm's train.py")
    chosen = [one for one in experiments(arguments.dry_run) if not arguments.only or one.name in arguments.only]
    if arguments.only and not chosen:
        known = ", ".join(one.name for one in experiments(arguments.dry_run))
        sys.exit(f"--only {' '.join(arguments.only)}: no such experiment; expected some of {known}")
    end, results = time.monotonic() + 60 * arguments.minutes, arguments.out / "gpu.jsonl"
    with tempfile.TemporaryDirectory() as temporary:
        for number, experiment in enumerate(chosen, start=1):
            left = end - time.monotonic()
            reason = left_out(experiment, arguments, left)
            if reason is None:
                record = measure(experiment, Path(temporary), arguments.timm_train, left, arguments.dry_run)
                append_record(results, record)
                reason = record.get("failed") or describe(record)
            print(f"[{number}/{len(chosen)}] {experiment.name}: {reason}", flush=True)
    print(f"results: {results}")


def left_out(experiment: Experiment, arguments: Run, left: float) -> str | None:
    """Return why an experiment is not run, if so."""
    if experiment.loop == "timm" and arguments.timm_train is None:
        return "left out: needs --timm-train"
    if arguments.dry_run and experiment.needs_gpu:
        return "left out of the dry run: needs a GPU"
    return "left out: no time" if left < experiment.seconds else None


def measure(experiment: Experiment, folder: Path, timm_train: Path | None, left: float, dry_run: bool) -> Record:
    """Run an experiment in a new process and return its record."""
    load, start = os.getloadavg()[0], time.monotonic()
    data = folder / experiment.folder
    if not data.exists():
        size, images = FOLDERS[experiment.folder]
        photo_folder(data, 64 if dry_run else images, 10 if dry_run else 1000, size, 16 if dry_run else 8192)
    out, result = folder / "run", folder / "result.json"
    shutil.rmtree(out, ignore_errors=True)
    result.unlink(missing_ok=True)
    words = [*LAUNCHERS[experiment.launcher], str(BENCHMARKS / "gpu.py"), "child", str(result)]
    words += experiment.child(data / "data", out, timm_train)
    environment_of_run = {**os.environ, "PYTHONPATH": str(ROOT), **({"ACCELERATE_USE_CPU": "true"} if dry_run else {})}
    try:
        done = subprocess.run(
            words, cwd=ROOT, env=environment_of_run, capture_output=True, text=True, timeout=left, check=False
        )
        output = (done.stdout + done.stderr).strip()
    except subprocess.TimeoutExpired as error:
        output = f"ended after {error.timeout:.0f} s, as the time was up"
    measured = json.loads(result.read_text()) if result.exists() else {"failed": output.splitlines()[-1][:500]}
    if "failed" in measured:
        print(output[-2000:], file=sys.stderr)
    return {
        "benchmark": "gpu",
        "experiment": experiment.name,
        **measured,
        "dry_run": dry_run,
        "took": round(time.monotonic() - start, 1),
        **environment(load, ("torch", "timm", "accelerate", "ssia-zoo")),
    }


def describe(record: Record) -> str:
    """Return the figures of a record in words."""
    parts = [f"{record['images_per_second']:.0f} images/s"]
    parts += [f"{record['ms_per_step']:.1f} ms a step"] if "ms_per_step" in record else []
    parts += [f"{record['peak_memory_mb']:.0f} MB"] if "peak_memory_mb" in record else []
    parts += [f"{100 * record['data_wait']:.1f} % waiting for data"] if "data_wait" in record else []
    parts += [f"MFU {100 * record['mfu']:.0f} %"] if "mfu" in record else []
    return ", ".join([*parts, f"{record['took']:.0f} s in all"])


def table(records: Sequence[Record]) -> list[str]:
    """Format the newest record of each experiment as Markdown."""
    newest = {record["experiment"]: record for record in records if "failed" not in record}
    lines = [
        "| experiment | images/s | ms a step | peak memory, MB | waiting for data | MFU |",
        "|---|---|---|---|---|---|",
    ]
    for experiment in experiments(dry_run=False):
        record = newest.get(experiment.name)
        cells = ["not measured", *[""] * 4] if record is None else cells_of(record)
        lines.append(f"| {experiment.title} | {' | '.join(cells)} |")
    lines += ["", "| ratio | measured | bar |", "|---|---|---|"]
    for title, above, below, bar in ratios():
        known = above in newest and below in newest
        value = f"{newest[above]['ms_per_step'] / newest[below]['ms_per_step']:.3f}" if known else "not measured"
        lines.append(f"| {title} | {value} | ≤ {bar:g} |")
    if newest:
        devices = {f"{record['device']}, torch {record['versions']['torch']}" for record in newest.values()}
        lines += ["", f"{'; '.join(sorted(devices))}; {min(record['time'][:10] for record in newest.values())}."]
    return lines


def ratios() -> list[tuple[str, str, str, float]]:
    """Return a title, the experiments above and below the line, and the largest ratio that is aimed at."""
    rows = []
    for model in ("resnet50", "vit_small"):
        for mode in ("eager", "compiled"):
            rows.append((f"SSIA / vanilla, {model}, {mode}", f"{model}-ssia-{mode}", f"{model}-vanilla-{mode}", 1.03))
        rows.append((f"ours / timm's train.py, {model}", f"{model}-vanilla-eager", f"{model}-timm-eager", 1.0))
    return [*rows, ("ours / timm's train.py, bound by data", "data-ours", "data-timm", 1.0)]


def cells_of(record: Record) -> list[str]:
    numbers = [f"{record['images_per_second']:.0f}"]
    for name, scale, digits in (("ms_per_step", 1, 1), ("peak_memory_mb", 1, 0)):
        numbers.append(f"{scale * record[name]:.{digits}f}" if name in record else "")
    return [*numbers, *(f"{100 * record[name]:.1f} %" if name in record else "" for name in ("data_wait", "mfu"))]


def report(file: Path | None = None) -> None:
    if file is not None:
        records = read_results(file)
        if not records or any(record["dry_run"] for record in records):
            sys.exit(f"{file}: holds no results, or those of a dry run; expected those of a GPU")
        for record in records:
            append_record(RECORDS, record)
    replace_table(REPORT, "gpu", table(read_results(RECORDS)))


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        time_steps(*sys.argv[2:])
        sys.exit()
    chosen: Any = tyro.cli(Run | Report, description=__doc__)  # type: ignore[arg-type]
    run(chosen) if isinstance(chosen, Run) else report(chosen.file)
