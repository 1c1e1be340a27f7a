"""Compare training methods: method x architecture x data set x seed, each trained by train_hf.py and paired by seed.

    python benchmarks/accuracy.py run benchmarks/plans/PLAN.yaml --data-root DATA --jobs 2    # resumes if interrupted
    python benchmarks/accuracy.py report      # write tables and plots of all plans and of the published weights

A plan lists seeds, common settings, data sets (with the classes and images to keep), architectures and methods. Every
combination is one run; the optional list `cells` restricts the pairs of data set and architecture. With the same seed
all methods start from the same weights and see the same images in the same order with the same augmentation. The score
is that of the weights after the last step. A plan evaluates on `validation` (part of the training split, to choose
settings) or on `test` (the official split, for final results, evaluated once after training).

Each run is appended to results/accuracy.jsonl with all its settings. A combination that is recorded is not run again,
and counts in every plan that contains it.
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
import recording
import tyro
import yaml
from recording import ROOT, append_record, read_results

from ssia_zoo.training.config import BEFORE_PIXELS
from ssia_zoo.training.metrics import read_records

PLANS = recording.BENCHMARKS / "plans"
RESULTS = recording.RESULTS / "accuracy.jsonl"
WEIGHTS = recording.RESULTS / "weights"
CLASSES = {"c10": 10, "tin": 200, "digits": 10, "grocery": 81}
"""classes of the data that weights are trained on, by the first part of their tag"""
Settings = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One run: its names in the tables, and every setting that determines its result."""

    data: str
    arch: str
    method: str
    seed: int
    subset: Settings
    settings: Settings

    @property
    def key(self) -> str:
        """Hash of the settings: equal settings are run once, whatever the plans call them."""
        decisive = json.dumps({"subset": self.subset, **self.settings}, sort_keys=True)
        return hashlib.sha256(decisive.encode()).hexdigest()[:16]


def cells(plan: Settings) -> Iterator[Cell]:
    """Yield the plan's runs, seed by seed, so that an interrupted plan still compares all methods."""
    common = {"eval_split": plan["evaluate"], **plan["common"]}
    chosen = [tuple(cell) for cell in plan.get("cells", product(plan["data"], plan["archs"]))]
    for seed in plan["seeds"]:
        for (data, arch), (method, objective) in product(chosen, plan["methods"].items()):
            subset, model = dict(plan["data"][data]), plan["archs"][arch]
            settings = merged(common, subset.pop("settings", {}), model, objective, {"seed": seed})
            yield Cell(data, arch, method, seed, subset, settings)


def merged(*parts: Settings) -> Settings:
    """Merge settings; later ones override earlier ones, groups (`model_kwargs`, `ssia`) are merged key by key."""
    result: Settings = {}
    for name, value in (item for part in parts for item in part.items()):
        result[name] = {**result.get(name, {}), **value} if isinstance(value, dict) else value
    return result


def make_subset(source: Path, subset: Settings, target: Path) -> None:
    """Write a subset's splits train, validation and test as parquet files; which images are kept is reproducible.

    Args:
        source: Folder of parquet files as `datasets` reads it, with a training split and an official test split.
        subset: `dataset` (its name); `classes` (number of classes, all by default); `train_per_class` and
            `validation_per_class` (images of the training split; by default the data set's own splits are kept);
            `train_labels` (the column to train on, such as noisy human labels; evaluation uses the clean ones);
            `exchanged` (share of the training images that get the label of another class of the same `coarse` class).
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
    """Return for train, validation and test the source split and its rows."""
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
    """Relabel a share of the images with another class of the same coarse class, if there is one."""
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
    """Train one model in a separate process, on one thread, and return its record."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "cell.yaml"
    settings = {**BEFORE_PIXELS, **cell.settings, "dataset": str(data)}  # as all recorded runs
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
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


def results_by_plan() -> dict[str, list[Settings]]:
    """Return each plan's recorded runs, with the plan's names and in its order, whichever plan they were run for.

    Runs that are in no plan any more come last, under the names they were recorded with.
    """
    known = {result["key"]: result for result in read_results(RESULTS)}
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
            plans.setdefault(f"{result['plan']}, removed from the plan", []).append(result)
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


def run(arguments: Run) -> None:
    """Run the plan; failed runs are reported and do not stop the others."""
    plan = yaml.safe_load(arguments.plan.read_text(encoding="utf-8"))
    known = {result["key"] for result in read_results(RESULTS)}
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
            append_record(RESULTS, result)
            shutil.rmtree(arguments.work / result["key"])
            words = (result[name] for name in ("data", "arch", "method", "seed", "top1", "seconds"))
            print(f"{number}/{len(waiting)}", *words, flush=True)
    if failures:
        sys.exit(f"{len(failures)} of {len(waiting)} runs failed; repeat the command to run them again")


@dataclass(frozen=True)
class Report:
    """Write tables and plots of all recorded runs into benchmarks/accuracy.md and docs/when.md."""


def main(arguments: Run | Report) -> None:
    if isinstance(arguments, Run):
        run(arguments)
    else:
        from accuracy_report import write_report
        from when import write_when

        plans = {"weights": results_of_weights(), **results_by_plan()}
        write_report(plans)
        write_when(plans)


if __name__ == "__main__":
    main(tyro.cli(Run | Report, description=__doc__))  # type: ignore[arg-type]  # tyro takes unions
