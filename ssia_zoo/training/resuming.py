"""Compare the settings and data of a run with those of its checkpoint, and of its processes with each other."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from ssia_zoo.errors import ConfigError, TrainingError
from ssia_zoo.training.config import with_defaults

_log = logging.getLogger(__name__)

PREPROCESSING = ("interpolation", "crop_pct", "crop_mode")
"""Settings that default to the model's own."""

_BY_MODEL = (*PREPROCESSING, "ssia.weight")
"""Settings whose defaults depend on the model."""

_ALWAYS_FREE = ("workers", "max_corrupt", "check_duplicates")
"""Settings that do not change the trained weights. A run stopped by `max_corrupt` resumes with a higher value."""

_MAY_DIFFER = (*_ALWAYS_FREE, "dataset", "labels", "class_weights")
"""Settings that may differ between the processes of a run: the last ones are paths, whose content is compared."""

_MAX_NAMES = 5


def check_settings(manifest: Mapping[str, Any], settings: Mapping[str, Any], environment: Mapping[str, str]) -> None:
    """Check that a checkpoint's run had the same settings.

    Settings added since an older version count as their defaults. The number of epochs may be higher than before. Log a
    warning if the environment differs in what may change the last bits of the result (versions, threads).

    Args:
        manifest: The checkpoint's manifest.
        settings: This run's `TrainConfig.experiment`.
        environment: This run's versions and threads.

    Raises:
        TrainingError: If settings differ; names them.
    """
    before, settings = _flat(with_defaults(manifest["experiment"])), _flat(settings)
    free = [*_ALWAYS_FREE]
    # These are compared by check_data, once the model exists.
    free += [name for name in _BY_MODEL if None in (settings.get(name), before.get(name))]
    if settings["lr_base"] is not None:  # `lr` follows from it and the global batch
        free.append("lr")
    if settings["epochs"] > before["epochs"]:
        free.append("epochs")
        _log.info(
            "`epochs` raised from %d to %d: from step %d on, learning rate and lambda follow the schedule of %d epochs",
            *(before["epochs"], settings["epochs"], manifest["step"], settings["epochs"]),
        )
    decisive = {name: now for name, now in settings.items() if name not in free}
    changed = [f"{name} ({before.get(name)} -> {now})" for name, now in decisive.items() if before.get(name) != now]
    if changed:
        raise TrainingError(
            "`resume` continues a run with its own settings, except for a higher `epochs`; changed here: "
            + ", ".join(changed)
        )
    then = manifest["environment"]
    moved = [f"{name} ({then.get(name)} -> {now})" for name, now in environment.items() if then.get(name) != now]
    if moved:
        _log.warning("the result may differ in its last bits from that of an uninterrupted run: %s", ", ".join(moved))


def check_data(manifest: Mapping[str, Any], settings: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Check that a checkpoint's run had the same data, and what depends on the model: preprocessing and lambda.

    Args:
        manifest: The checkpoint's manifest.
        settings: This run's `TrainConfig.experiment`, with what depends on the model filled in.
        data: `ssia_zoo.data.data_identity` of this run's data.

    Raises:
        TrainingError: If they differ; names what differs.
    """
    before = _flat({"crop_mode": "center", **manifest["experiment"]})  # older versions had no crop_mode
    settings = _flat(settings)
    changes = [
        f"{name} ({before[name]} -> {settings[name]})"
        for name in _BY_MODEL
        if None not in (before.get(name), settings.get(name)) and before[name] != settings[name]
    ]
    if (data_before := manifest.get("data")) is None:
        _log.warning("the checkpoint is from an older version and does not describe its data; the data is not compared")
    else:
        changes += _differences(data_before, data)
    if changes:
        raise TrainingError(
            f"`resume` continues a run on its own data; changed here: {'; '.join(changes)}: restore it, or start a new "
            "run in a new `output_dir`"
        )


def check_processes(settings: Sequence[Mapping[str, Any]], data: Sequence[Mapping[str, Any]]) -> None:
    """Check that all processes of a run, which different commands may have started, have the same settings and data.

    Args:
        settings: The decisive settings of each process.
        data: `ssia_zoo.data.data_identity` of each process.

    Raises:
        ConfigError: If a process differs from the first one; names what differs.
    """
    first = _flat(settings[0])
    for process in range(1, len(settings)):
        own = _flat(settings[process])
        found = [
            f"{name} ({value} -> {own.get(name)})"
            for name, value in first.items()
            if name not in _MAY_DIFFER and own.get(name) != value
        ]
        found += _differences(data[0], data[process])
        if found:
            raise ConfigError(
                f"process {process} has other settings or data than process 0: {'; '.join(found)}; start every process "
                "with the same settings and a complete copy of the data"
            )


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with those of groups as `group.name`."""
    groups = {name: group for name, group in settings.items() if isinstance(group, dict) and name in ("ssia", "rival")}
    flat = {name: value for name, value in settings.items() if name not in groups}
    return flat | {f"{name}.{key}": value for name, group in groups.items() for key, value in group.items()}


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Describe the differences between two data identities: classes, number of images, content."""
    old, new = list(before.get("label_names", ())), list(now["label_names"])
    removed = [name for name in old if name not in new]
    added = [name for name in new if name not in old]
    found = [f"classes {verb}: {_some(names)}" for verb, names in (("removed", removed), ("added", added)) if names]
    if old != new and not found:
        found.append(f"classes in another order: {_some(new)}")
    for split, images in (("train", "training images"), ("eval", "evaluation images")):
        numbers = before.get(f"{split}_images"), now[f"{split}_images"]
        if numbers[0] != numbers[1]:
            found.append(f"{images} ({numbers[0]} -> {numbers[1]})")
        elif old == new and before.get(f"{split}_digest") != now[f"{split}_digest"]:  # the digest covers classes too
            found.append(f"{images} (still {numbers[1]}, but other names, sizes or labels)")
    if before.get("class_weights") != now.get("class_weights"):
        found.append("the weights of `class_weights`")
    return found


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more
