"""Select published weights, and summarize each one in a row."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import fmean
from typing import Any

from huggingface_hub import try_to_load_from_cache

from ssia_zoo.models.registry import weights
from ssia_zoo.models.weight import PairedRun, PublishedWeight
from ssia_zoo.resources import resource_dir


def select_weights(pattern: str | None = None, dataset: str | None = None) -> list[PublishedWeight]:
    """Return the published weights that match, sorted by name; case-insensitive.

    Args:
        pattern: Part of the name, or a pattern with * and ? for the full name.
        dataset: Part of the data set's name or source, or the data set's part of the tag ("c10").
    """
    chosen = []
    for name, config in sorted(weights().items()):
        data = (config.dataset.name, config.dataset.source, config.tag.rsplit("_", 1)[0])
        if pattern is not None and not _matches(name, pattern):
            continue
        if dataset is not None and not any(dataset.lower() in text.lower() for text in data):
            continue
        chosen.append(config)
    return chosen


def _matches(name: str, pattern: str) -> bool:
    wild = any(character in pattern for character in "*?[")
    return fnmatchcase(name.lower(), pattern.lower() if wild else f"*{pattern.lower()}*")


def summary(config: PublishedWeight) -> dict[str, Any]:
    """Return one weight's row of the table: accuracy in percent, size in bytes (None if not downloaded), place."""
    metrics = config.metrics
    size, place = weight_file(config)
    return {
        "name": config.name,
        "default": config.default,
        "dataset": config.dataset.name,
        "classes": config.num_classes,
        "input_size": list(config.input_size),
        "top1": metrics.top1,
        "control_top1": metrics.control_top1,
        "mean_difference": mean_difference(metrics.runs),
        "seeds": len(metrics.runs),
        "bytes": size,
        "place": place,
        "license": config.license,
    }


def mean_difference(runs: Sequence[PairedRun]) -> float:
    """Return the mean over seeds of top-1 with SSIA minus top-1 without, in percentage points."""
    return round(fmean(run.ssia - run.vanilla for run in runs), 4)


def weight_file(config: PublishedWeight) -> tuple[int | None, str]:
    """Return the size in bytes and the place of a weight's file, without network access."""
    if config.file is not None:
        path = resource_dir("hub_configs") / config.file
        return (path.stat().st_size if path.is_file() else None), "embedded"
    cached = try_to_load_from_cache(str(config.repo_id), "model.safetensors", revision=config.revision)
    return (Path(cached).stat().st_size, "Hub (cached)") if isinstance(cached, str) else (None, "Hub")
