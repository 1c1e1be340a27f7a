"""The arena: method x architecture x data x seed, each run by train_hf.py, paired by seed; and the tables of docs/.

    python benchmarks/accuracy.py run benchmarks/plans/PLAN.yaml --data-root DATA --jobs 2    # resumes where it stopped
    python benchmarks/accuracy.py report                    # tables and plots of every plan's runs, and of the weights'

A plan names seeds, settings in common, and three lists: data (with the classes and images to keep), archs, methods;
every combination is a run, or of data and archs those that a fourth list, cells, names. The same seed gives each method
the same initial student weights, data order and augmentation. The score is that of the weights after the last step. A
plan evaluates on `validation` (a part of the training split, for choosing) or on `test` (the official one, for the last
word): runs of the latter look at it once, when they have ended. Results are appended to results/accuracy.jsonl, a
line a run, with every setting; a combination that has one is not run again, and counts in every plan that
holds it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import tyro
import yaml

from ssia_zoo.training.metrics import read_records

ROOT = Path(__file__).resolve().parent.parent
PLANS = ROOT / "benchmarks" / "plans"
RESULTS = ROOT / "benchmarks" / "results" / "accuracy.jsonl"
WEIGHTS = RESULTS.parent / "weights"
Settings = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One run: what it is called in tables, and every setting that decides its outcome."""

    data: str
    arch: str
    method: str
    seed: int
    subset: Settings
    settings: Settings

    @property
    def key(self) -> str:
        """Names the run by its settings: equal ones are run once, whatever the plan calls them."""
        decisive = json.dumps({"subset": self.subset, **self.settings}, sort_keys=True)
        return hashlib.sha256(decisive.encode()).hexdigest()[:16]


def cells(plan: Settings) -> Iterator[Cell]:
    """The plan's runs; seed by seed, so that whatever is finished is a comparison."""
    common = {"eval_split": plan["evaluate"], **plan["common"]}
    chosen = [tuple(cell) for cell in plan.get("cells", product(plan["data"], plan["archs"]))]
    for seed in plan["seeds"]:
        for (data, arch), (method, objective) in product(chosen, plan["methods"].items()):
            subset, model = dict(plan["data"][data]), plan["archs"][arch]
            settings = merged(common, subset.pop("settings", {}), model, objective, {"seed": seed})
            yield Cell(data, arch, method, seed, subset, settings)


def merged(*parts: Settings) -> Settings:
    """Settings of which later ones count; groups of settings (`model_kwargs`, `ssia`) are merged, not replaced."""
    whole: Settings = {}
    for name, value in (item for part in parts for item in part.items()):
        whole[name] = {**whole.get(name, {}), **value} if isinstance(value, dict) else value
    return whole


def make_subset(source: Path, subset: Settings, target: Path) -> None:
    """Write splits train, validation and test of some classes as parquet; the choice depends on the numbers alone.

    Args:
        source: Folder of parquet files as `datasets` reads it, with a training split and an official one to test on.
        subset: `dataset` (its name), `classes` (all if not given), and images of its training split:
            `train_per_class` and `validation_per_class`; without them its own splits are taken as they are.
            `train_labels` names the column to train on, such as people's wrong answers; evaluation keeps the right
            ones. `exchanged` is a share of the training images that get another class of the same `coarse` one.
        target: Folder to write.
    """
    splits = datasets.load_dataset(str(source))
    label = next(n for n, f in splits["train"].features.items() if isinstance(f, datasets.ClassLabel))
    names = splits["train"].features[label].names
    kept = np.sort(np.random.RandomState(0).permutation(len(names))[: subset.get("classes")])
    renumbered = {int(old): new for new, old in enumerate(kept)}
    feature = datasets.ClassLabel(names=[names[old] for old in kept])
    temporary = target.with_name(f"{target.name}.unfinished")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, (split, rows) in _chosen_rows(splits, label, kept, subset).items():
        part = splits[split].select(rows)
        labels = part[subset.get("train_labels", label) if name == "train" else label]
        if name == "train" and "exchanged" in subset:
            labels = _exchanged(np.asarray(labels), np.asarray(part["coarse"]), subset["exchanged"])
        labels = [renumbered[int(old)] for old in labels]
        part = part.select_columns(["image"]).add_column(label, labels, feature=feature)
        part.to_parquet(str(temporary / f"{name}.parquet"))
    temporary.rename(target)


def _chosen_rows(
    splits: datasets.DatasetDict, label: str, kept: np.ndarray, subset: Settings
) -> dict[str, tuple[str, np.ndarray]]:
    """The split and the rows that train, validation and test are made of."""
    if "train_per_class" not in subset:
        return {name: (name, np.arange(len(rows))) for name, rows in splits.items()}
    official = "test" if "test" in splits else "validation"
    train, ends = _rows_by_class(splits["train"][label], kept), subset["train_per_class"]
    validation = [rows[ends : ends + subset["validation_per_class"]] for rows in train]
    return {
        "train": ("train", np.sort(np.concatenate([rows[:ends] for rows in train]))),
        "validation": ("train", np.sort(np.concatenate(validation))),
        "test": (official, np.sort(np.concatenate(_rows_by_class(splits[official][label], kept)))),
    }


def _exchanged(labels: np.ndarray, coarse: np.ndarray, share: float) -> np.ndarray:
    """Give a share of the images the label of another class of the same coarse one, where there is another."""
    random = np.random.RandomState(0)
    wrong = labels.copy()
    for row in random.permutation(len(labels))[: round(share * len(labels))]:
        others = np.setdiff1d(labels[coarse == coarse[row]], labels[row])
        if len(others):
            wrong[row] = random.choice(others)
    return wrong


def _rows_by_class(labels: list[int], kept: np.ndarray) -> list[np.ndarray]:
    random = np.random.RandomState(0)
    return [random.permutation(np.flatnonzero(np.asarray(labels) == c)) for c in kept]


def run_cell(cell: Cell, folder: Path, data: Path) -> Settings:
    """Train one model in a process of its own, on one thread, and describe the result."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "cell.yaml"
    config.write_text(yaml.safe_dump({**cell.settings, "dataset": str(data)}), encoding="utf-8")
    command = [sys.executable, ROOT / "train_hf.py", "--config", config, "--output-dir", folder / "run"]
    python_path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    start = time.monotonic()
    done = subprocess.run(
        [*map(str, command), "--resume", "auto"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": python_path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{cell.data} {cell.arch} {cell.method} seed {cell.seed}: {done.stderr[-2000:]}")
    described = json.loads((folder / "run" / "config.json").read_text(encoding="utf-8"))["ssia"]
    last = [record for record in read_records(folder / "run" / "metrics.jsonl") if record["kind"] == "train"][-1]
    return {
        "data": cell.data,
        "arch": cell.arch,
        "method": cell.method,
        "seed": cell.seed,
        "evaluated_on": cell.settings["eval_split"],
        "images": described["evaluated_images"],
        **{name: round(value, 4) for name, value in described["metrics"].items()},
        "train_task_loss": round(last["task_loss"], 4),  # of a tenth of an epoch, augmented
        "seconds": round(time.monotonic() - start, 1),
        "key": cell.key,
        "subset": cell.subset,
        "settings": cell.settings,
        "environment": {**described["environment"], "machine": platform.platform(), "threads": 1},
    }


def read_results() -> list[Settings]:
    """Every recorded run, oldest first."""
    if not RESULTS.exists():
        return []
    return [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]


def results_by_plan() -> dict[str, list[Settings]]:
    """Of each plan in plans/ the runs that are recorded, whichever plan made them, in the plan's words and order.

    Runs that no plan holds any more come last, by the names that they were recorded under.
    """
    known = {result["key"]: result for result in read_results()}
    plans: dict[str, list[Settings]] = {}
    for path in sorted(PLANS.glob("*.yaml")):
        planned = cells(yaml.safe_load(path.read_text(encoding="utf-8")))
        plans[path.stem] = [
            {**known[cell.key], "data": cell.data, "arch": cell.arch, "method": cell.method}
            for cell in planned
            if cell.key in known
        ]
    held = {run["key"] for runs in plans.values() for run in runs}
    for result in known.values():
        if result["key"] not in held:
            plans.setdefault(f"{result['plan']}, taken out of the plan since", []).append(result)
    return plans


def results_of_weights() -> list[Settings]:
    """The runs of make_weight.py behind the published weights, as a plan's."""
    runs = []
    for path in sorted(WEIGHTS.glob("*.jsonl")):
        entry = ROOT / "hub_configs" / f"{path.stem}.json"
        if not entry.exists():  # the log of a weight that has been replaced
            continue
        described = json.loads(entry.read_text(encoding="utf-8"))
        for run in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            training, method = run["training"], run["method"]
            if method == "ssia" and training["ssia"].get("labels"):
                method = "SSIA + DSN"
            runs.append(
                {
                    "data": described["tag"],
                    "arch": described["architecture"],
                    "method": {"ssia": "SSIA", "dsn": "DSN"}.get(method, method),
                    "seed": run["seed"],
                    "evaluated_on": "test",
                    "images": run["evaluated_images"],
                    "top1": run["metrics"]["top1"],
                    "train_task_loss": [record for record in run["log"] if record["kind"] == "train"][-1]["task_loss"],
                    "subset": {"classes": described["num_classes"]},
                    "settings": training,
                }
            )
    return runs


@dataclass(frozen=True)
class Run:
    """Run what of a plan has no result yet."""

    plan: tyro.conf.Positional[Path]
    """YAML file"""
    data_root: Path
    """folder that holds the data sets' folders of parquet files"""
    work: Path = Path("runs/arena")
    """where subsets and unfinished runs are kept"""
    jobs: int = 1
    """runs at once, each on one thread"""


def run(arguments: Run) -> None:
    """Run the plan; a run that fails is told at the end and holds up no other."""
    plan = yaml.safe_load(arguments.plan.read_text(encoding="utf-8"))
    known = {result["key"] for result in read_results()}
    waiting = [cell for cell in cells(plan) if cell.key not in known]
    folders: dict[str, Path] = {}
    for cell in waiting:
        name = "_".join(f"{value}" for value in cell.subset.values())
        folders[cell.key] = arguments.work / "data" / name
        if not folders[cell.key].exists():
            make_subset(arguments.data_root / cell.subset["dataset"], cell.subset, folders[cell.key])
    failures = []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        futures = [pool.submit(run_cell, c, arguments.work / c.key, folders[c.key]) for c in waiting]
        for number, future in enumerate(as_completed(futures), start=1):
            if error := future.exception():
                failures.append(str(error))
                print(f"failed: {error}", file=sys.stderr, flush=True)
                continue
            result = {"plan": arguments.plan.stem, **future.result()}
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(result) + "\n")
            shutil.rmtree(arguments.work / result["key"])
            words = (result[name] for name in ("data", "arch", "method", "seed", "top1", "seconds"))
            print(f"{number}/{len(waiting)}", *words, flush=True)
    if failures:
        sys.exit(f"{len(failures)} of {len(waiting)} runs failed; the same command runs them again")


@dataclass(frozen=True)
class Report:
    """Write the tables and plots of docs/accuracy.md: of every plan, what has been run."""


def main(arguments: Run | Report) -> None:
    if isinstance(arguments, Run):
        run(arguments)
    else:
        from accuracy_report import write_report

        write_report({"weights": results_of_weights(), **results_by_plan()})


if __name__ == "__main__":
    main(tyro.cli(Run | Report))  # type: ignore[arg-type]  # tyro takes unions
