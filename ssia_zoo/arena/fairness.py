"""Check from the records that the runs of a plan were compared fairly; what an old record lacks counts as unknown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ssia_zoo.arena.records import Record
from ssia_zoo.arena.results import Group, Results, groups

BUDGET = (
    *("epochs", "max_steps", "batch_size", "accumulation_steps", "aug_repeats", "image_size", "train_image_size"),
    *("balanced_sampling", "pretrained", "keep_best", "patience", "eval_split"),
)
"""Settings that no method may change, besides the images themselves."""

_NETWORK = ("model", "model_kwargs", "in_chans", "lora", "freeze")
_ENVIRONMENT = ("ssia-zoo", "torch", "timm", "accelerate", "pillow", "simplejpeg", "python", "device")
_ORDER = ("data_order", "train_images", "eval_images")


@dataclass(frozen=True)
class Fairness:
    """What the records show."""

    faults: tuple[str, ...]
    """What makes the comparison unfair."""
    notes: tuple[str, ...]
    """What differs by intention, or between machines."""
    compared: int
    """Groups of runs that share data, network and seed, and are compared."""
    unknown: int
    """Those of them whose initial weights and order of images are not recorded."""

    @property
    def summary(self) -> str:
        """The result in one sentence."""
        if not self.compared:
            return "nothing to compare yet"
        found = f"{self.compared - self.unknown} of {self.compared} groups of paired runs"
        verdict = "unfair" if self.faults else "the same budget for all methods"
        return f"{verdict}; the same initial weights, images and order are asserted in {found}" + (
            ", in the others not recorded" if self.unknown else ""
        )


def check_fairness(results: Results) -> Fairness:
    """Compare what the runs of each cell and seed must share: budget, data, order, initial weights, tries."""
    faults: list[str] = []
    notes: list[str] = []
    compared = unknown = 0
    for (data, arch), group in groups(results.runs).items():
        for seed, runs in _by_seed(group).items():
            faults += [f"{data}, {arch}, seed {seed}: {fault}" for fault in _test_split_read_early(runs)]
            if len(runs) < 2:
                continue
            compared += 1
            unknown += not all(run.get("fingerprint") for run in runs.values())
            faults += [f"{data}, {arch}, seed {seed}: {fault}" for fault in _differences(runs)]
            notes += [f"{data}, {arch}: {note}" for note in _notes(runs)]
    notes += _tuning(results)
    return Fairness(tuple(dict.fromkeys(faults)), tuple(dict.fromkeys(notes)), compared, unknown)


def _by_seed(group: Group) -> dict[int, dict[str, Record]]:
    seeds = dict.fromkeys(seed for runs in group.values() for seed in runs)
    return {seed: {method: runs[seed] for method, runs in group.items() if seed in runs} for seed in seeds}


def _differences(runs: dict[str, Record]) -> Iterator[str]:
    for name in BUDGET:
        yield from _unequal(name, {method: run["settings"].get(name) for method, run in runs.items()})
    yield from _unequal("images", {method: run["subset"] for method, run in runs.items()})
    yield from _unequal("steps", {method: run["steps"] for method, run in runs.items() if "steps" in run})
    marks = {method: run["fingerprint"] for method, run in runs.items() if run.get("fingerprint")}
    for name in _ORDER:
        yield from _unequal(name, {method: mark[name] for method, mark in marks.items() if name in mark})
    networks: dict[str, dict[str, Any]] = {}
    for method, mark in marks.items():  # a method that changes the network cannot share its initial weights
        networks.setdefault(_network(runs[method]), {})[method] = mark["initial_weights"]
    for weights in networks.values():
        yield from _unequal("initial_weights", weights)


def _unequal(name: str, values: dict[str, Any]) -> Iterator[str]:
    first = next(iter(values), "")
    for method, value in values.items():
        if value != values[first]:
            yield f"{name} is {value} for {method}, and {values[first]} for {first}"


def _network(run: Record) -> str:
    return repr([run["settings"].get(name) for name in _NETWORK])


def _notes(runs: dict[str, Record]) -> Iterator[str]:
    if len({_network(run) for run in runs.values()}) > 1:
        yield "methods change the network, so not all share initial weights"
    first = next(iter(runs.values()))
    for name in _ENVIRONMENT:
        values = sorted({str(run.get("environment", {}).get(name)) for run in runs.values()})
        if len(values) > 1:
            yield f"{name} differs between methods: {', '.join(values)}"
    own = {"method", "ssia", "rival", *BUDGET, *_NETWORK}
    keys = dict.fromkeys(key for run in runs.values() for key in run["settings"] if key not in own)
    for key in keys:
        methods = [m for m, run in runs.items() if run["settings"].get(key) != first["settings"].get(key)]
        if methods:
            yield f"{key} is part of the method: {', '.join(methods)}"


def _test_split_read_early(runs: dict[str, Record]) -> Iterator[str]:
    for method, run in runs.items():
        settings = run["settings"]
        if run["evaluated_on"] != "test":
            continue
        used = [name for name in ("keep_best", "patience") if settings.get(name)]
        if used or settings.get("val_interval", 1) != 0:
            yield f"{method} read the test split during training ({', '.join(used) or 'val_interval is not 0'})"


def _tuning(results: Results) -> Iterator[str]:
    if results.plan.tune is not None:
        tries = results.plan.tune.tries
        counts = ", ".join(f"{method} by {len(tried)} tries" for method, tried in tries.items())
        fixed = ", ".join(method for method in results.plan.methods if method not in tries)
        yield f"tuned on validation: {counts}" + (f"; with the plan's settings: {fixed}" if fixed else "")


def fairness_lines(found: Fairness, most: int = 5) -> Sequence[str]:
    """Return the result as lines of text, with at most so many faults and notes each."""
    lines = [f"Fairness: {found.summary}."]
    for title, texts in (("unfair", found.faults), ("note", found.notes)):
        lines += [f"- {title}: {text}" for text in texts[:most]]
        if len(texts) > most:
            lines.append(f"- {title}: {len(texts) - most} more")
    return lines
