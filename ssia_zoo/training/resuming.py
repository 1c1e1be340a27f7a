"""What a resumed run must share with its checkpoint and is known only once its data and its model are there."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ssia_zoo.errors import TrainingError

_log = logging.getLogger(__name__)

PREPROCESSING = ("interpolation", "crop_pct", "crop_mode")
"""Settings that are the model's own where they are not given."""

_MOST_NAMED = 5


def check_resumed(manifest: Mapping[str, Any], experiment: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Check that a checkpoint's run had the same data and the same preprocessing.

    Args:
        manifest: The checkpoint's.
        experiment: Settings of this run, those of the model's own preprocessing filled in.
        data: `ssia_zoo.data.data_identity` of this run's data.

    Raises:
        TrainingError: If not; names what differs.
    """
    before = {"crop_mode": "center", **manifest["experiment"]}  # which older versions had no setting of
    changes = [
        f"{name} ({before[name]} -> {experiment[name]})"
        for name in PREPROCESSING
        if before.get(name) is not None and before[name] != experiment[name]
    ]
    if (data_before := manifest.get("data")) is None:
        _log.warning("the checkpoint is of an older version, which noted no data: whether it was the same is not known")
    else:
        changes += _differences(data_before, data)
    if changes:
        raise TrainingError(
            f"--resume continues a run on its own data; changed here: {'; '.join(changes)}: restore them, or start a "
            "new run in a new --output-dir"
        )


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Name what differs between two identities: classes that came and went, numbers of images, other images."""
    old, new = list(before.get("label_names", ())), list(now["label_names"])
    gone, come = ([name for name in one if name not in other] for one, other in ((old, new), (new, old)))
    found = [f"classes {verb}: {_some(names)}" for verb, names in (("removed", gone), ("added", come)) if names]
    if old != new and not found:
        found.append(f"classes in another order: {_some(new)}")
    for split, what in (("train", "images to train on"), ("eval", "images to evaluate on")):
        numbers = before.get(f"{split}_images"), now[f"{split}_images"]
        if numbers[0] != numbers[1]:
            found.append(f"{what} ({numbers[0]} -> {numbers[1]})")
        elif old == new and before.get(f"{split}_digest") != now[f"{split}_digest"]:  # which covers the classes, too
            found.append(f"{what} ({numbers[1]} as before, but other names, sizes or labels)")
    return found


def _some(names: list[str]) -> str:
    return ", ".join(names[:_MOST_NAMED]) + (
        f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    )
