"""A small plan and made-up records of its runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ssia_zoo.arena.plan import Cell, Plan, read_plan

CONTENT: dict[str, Any] = {
    "evaluate": "validation",
    "seeds": [0, 1],
    "common": {"image_size": 32, "epochs": 1, "batch_size": 16, "workers": 0, "val_interval": 0},
    "data": {"digits5": {"dataset": "digits", "classes": 5, "train_per_class": 8, "validation_per_class": 4}},
    "archs": {"test_resnet": {"model": "test_resnet"}},
    "methods": {"vanilla": {"method": "vanilla"}, "ssia": {"method": "ssia"}},
}
TUNE: dict[str, Any] = {"seeds": [100], "tries": {"ssia": [{"ssia": {"weight": w}} for w in (0.5, 2.0)]}}


def write_plan(folder: Path, name: str = "plan", **changes: Any) -> Path:
    """Write `CONTENT` with changes as a plan; a key whose value is None is left out."""
    content = {key: value for key, value in {**CONTENT, **changes}.items() if value is not None}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def plan(folder: Path, **changes: Any) -> Plan:
    return read_plan(write_plan(folder, **changes))


def record(cell: Cell, top1: float, **more: Any) -> dict[str, Any]:
    """Return what the record of a run holds, without what a test does not need."""
    return {
        "plan": "plan",
        **{"data": cell.data, "arch": cell.arch, "method": cell.method, "seed": cell.seed},
        "evaluated_on": cell.settings["eval_split"],
        **{"images": 100, "top1": top1, "train_task_loss": 1.0, "seconds": 10.0, "steps": 5},
        **{"key": cell.key, "subset": cell.subset, "settings": cell.settings, "environment": {"torch": "2"}},
        **more,
    }


def by_key(plan: Plan, score: Callable[[Cell], float], **more: Any) -> dict[str, dict[str, Any]]:
    return {cell.key: record(cell, score(cell), **more) for cell in plan.all_cells()}


def write_records(path: Path, records: Mapping[str, Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in records.values()), encoding="utf-8")
    return path
