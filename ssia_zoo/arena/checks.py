"""Check a plan before anything runs: its data, and the settings, network and objective of every run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ssia_zoo.arena.plan import Cell, Plan, faults_of
from ssia_zoo.arena.subsets import check_source
from ssia_zoo.arena.tuning import schedule
from ssia_zoo.errors import ConfigError, SSIAZooError
from ssia_zoo.models.features import TimmModel
from ssia_zoo.training.arguments import check_config
from ssia_zoo.training.config import TrainConfig
from ssia_zoo.training.methods import create_task, with_lambda
from ssia_zoo.training.model import build_model

_NOT_OF_MODEL = ("seed", "method", "ssia", "rival", "smoothing", "eval_split")
_SOME_CLASSES = 10


def check_plan(plan: Plan, data_root: Path | None) -> None:
    """Check everything about a plan that can be checked without training or reading images.

    Every distinct network is built, with random weights, and every objective on it.

    Raises:
        ConfigError: In one line, which part of the plan is wrong, and what was expected.
    """
    for name in sorted({str(entry["dataset"]) for entry in plan.data.values()}):
        try:
            check_source(name, data_root)
        except SSIAZooError as error:
            raise faults_of(f"{plan.name}: data")(error) from error
    found = schedule(plan, {})
    models: dict[str, tuple[TimmModel, Any]] = {}
    checked = set()
    for cell in (*found.cells, *found.undecided, *found.tries):
        distinct = json.dumps({**cell.settings, "seed": 0}, sort_keys=True)
        if distinct in checked:
            continue
        checked.add(distinct)
        try:
            _check_cell(cell, models)
        except SSIAZooError as error:
            raise faults_of(f"{plan.name}: {cell.title}")(error) from error


def cell_config(cell: Cell, dataset: str, output_dir: str) -> TrainConfig:
    """Return the settings of a run.

    Raises:
        ConfigError: One is unknown or invalid, or settings contradict each other.
    """
    reserved = sorted({"dataset", "output_dir", "resume", "push_to_hub", "eval_only"} & set(cell.settings))
    if reserved:
        raise ConfigError(f"{reserved[0]} is not a setting of a plan; leave it out")
    if cell.settings.get("probe"):
        raise ConfigError("probe is true, which a plan cannot run; use `ssia-zoo train --probe`")
    config = TrainConfig(**{**cell.settings, "dataset": dataset, "output_dir": output_dir})
    check_config(config)
    if config.eval_split == "test" and config.val_interval:
        raise ConfigError(
            f"val_interval is {config.val_interval}; expected 0 with evaluate: test, as the test split is for the "
            "trained weights alone"
        )
    return config


def _check_cell(cell: Cell, models: dict[str, tuple[TimmModel, Any]]) -> None:
    config = replace(cell_config(cell, cell.subset["dataset"], "run"), pretrained=False)
    of_model = {name: value for name, value in cell.settings.items() if name not in _NOT_OF_MODEL}
    key = json.dumps(of_model, sort_keys=True)
    if key not in models:
        models.clear()  # runs of one network follow each other
        models[key] = build_model(config, cell.subset.get("classes", _SOME_CLASSES))
    model, preprocessing = models[key]
    create_task(model, with_lambda(config, model), preprocessing.input_size, images=1)


def check_names(names: Sequence[str]) -> None:
    """Check that plans have different names, as their records and pages do.

    Raises:
        ConfigError: Two are called the same.
    """
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two plans are called {name}; rename one of them")
