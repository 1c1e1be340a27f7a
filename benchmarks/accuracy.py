"""Compare training methods by this repository's plans, and write its pages about them.

    python benchmarks/accuracy.py run benchmarks/plans/PLAN.yaml --data-root DATA --jobs 2    # resumes if interrupted
    python benchmarks/accuracy.py report      # write tables and plots of all plans and of the published weights

`run` is `ssia-zoo arena run` (docs/arena.md) with this repository's records: a run is appended to
results/accuracy.jsonl, and its answers are stored in results/answers/. A combination that is recorded is not run again,
and counts in every plan that contains it. `report` writes benchmarks/accuracy.md, docs/when.md and the leaderboard of
docs/arena.md.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import recording
import tyro
from recording import DOCS, ROOT, read_results

from ssia_zoo.arena.leaderboard import leaderboard
from ssia_zoo.arena.plan import read_plan
from ssia_zoo.arena.records import read_records
from ssia_zoo.arena.report import replace_between
from ssia_zoo.arena.results import Results
from ssia_zoo.arena.results import read_results as read_plan_results
from ssia_zoo.arena.runner import Options, run_plan
from ssia_zoo.cli import console

PLANS = recording.BENCHMARKS / "plans"
RECORDS = recording.RESULTS / "accuracy.jsonl"
WEIGHTS = recording.RESULTS / "weights"
ARENA = DOCS / "arena.md"
CLASSES = {"c10": 10, "tin": 200, "digits": 10, "grocery": 81}
"""classes of the data that weights are trained on, by the first part of their tag"""
Settings = dict[str, Any]


def all_results() -> list[Results]:
    """Return what is recorded of each plan of this repository; the smoke plan is for tests alone."""
    paths = [path for path in sorted(PLANS.glob("*.yaml")) if path.stem != "smoke"]
    return [read_plan_results(read_plan(path), RECORDS) for path in paths]


def results_by_plan(found: list[Results]) -> dict[str, list[Settings]]:
    """Return each plan's recorded runs.

    Runs that are in no plan any more come last, under the names they were recorded with.
    """
    plans = {results.plan.name: list(results.runs) for results in found}
    held = {run["key"] for runs in plans.values() for run in runs}
    held |= {cell.key for results in found for choice in results.choices for runs in choice.tries for cell in runs}
    for record in read_records(RECORDS).values():
        if record["key"] not in held:
            plans.setdefault(f"{record['plan']}, removed from the plan", []).append(record)
    return plans


def results_of_weights() -> list[Settings]:
    """Return the runs behind the weights, published or not, recorded by make_weight.py, as those of a plan."""
    runs = []
    for path in sorted(WEIGHTS.glob("*.jsonl")):
        architecture, tag = path.stem.split("_ssia.")
        if not (ROOT / "hub_configs" / f"{path.stem}.json").exists():
            tag += ", not published"
        for run in read_results(path):
            training, method = run["training"], run["method"]
            if method == "ssia" and training["ssia"].get("labels"):
                method = "SSIA + DSN"
            runs.append(
                {
                    "data": tag,
                    "arch": architecture,
                    "method": {"ssia": "label-free SSIA", "dsn": "DSN"}.get(method, method),
                    "seed": run["seed"],
                    "evaluated_on": "test",
                    "images": run["evaluated_images"],
                    "top1": run["metrics"]["top1"],
                    "train_task_loss": [record for record in run["log"] if record["kind"] == "train"][-1]["task_loss"],
                    "subset": {"classes": CLASSES[tag.split("_")[0]]},
                    "settings": training,
                }
            )
    return runs


@dataclass(frozen=True)
class Run:
    """Run the part of a plan that has no result yet."""

    plan: tyro.conf.Positional[Path]
    """YAML file"""
    data_root: Path
    """folder that contains the data sets, a folder of parquet files each"""
    work: Path = Path("runs/accuracy")
    """folder for subsets and unfinished runs"""
    jobs: int = 1
    """parallel runs, one thread each"""
    minutes: float | None = None
    """stop after this time, at a checkpoint"""
    models: Path | None = None
    """keep each run's model in this folder, named by the run's key (for finetune.py)"""


@dataclass(frozen=True)
class Report:
    """Write tables and plots of all recorded runs into benchmarks/accuracy.md, docs/when.md and docs/arena.md."""


def main(arguments: Run | Report) -> None:
    if isinstance(arguments, Run):
        given = arguments
        places = {"records": RECORDS, "work": given.work, "data_root": given.data_root, "models": given.models}
        options = Options(**places, jobs=given.jobs, minutes=given.minutes)
        outcome = run_plan(read_plan(given.plan), options, lambda line: print(line, flush=True))
        if outcome.failed:
            sys.exit(f"{len(outcome.failed)} runs failed; repeat the command to run them again")
    else:
        from accuracy_report import write_report
        from when import write_when

        found = all_results()
        plans = {"weights": results_of_weights(), **results_by_plan(found)}
        write_report(plans)
        write_when(plans)
        replace_between(ARENA, "leaderboard", leaderboard(found))


if __name__ == "__main__":
    chosen: Any = tyro.cli(Run | Report, description=__doc__)  # type: ignore[arg-type]  # tyro takes unions
    sys.exit(console.run(lambda: main(chosen)))
