"""A plan of comparable runs: methods x networks x data x regimes x seeds, read from YAML and checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field
from pydantic.dataclasses import dataclass

from ssia_zoo.data import DataConfig
from ssia_zoo.errors import ConfigError, did_you_mean, one_line
from ssia_zoo.training.config import BEFORE_PIXELS
from ssia_zoo.validation import STRICT, one_line_errors

Settings = dict[str, Any]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Named = dict[str, Settings]

SUBSET = ("dataset", "classes", "train_per_class", "validation_per_class", "train_labels", "exchanged")
"""What an entry of a plan's `data` may set, besides `settings` of the runs; see `ssia_zoo.arena.subsets`."""


@dataclass(frozen=True)
class Cell:
    """One run: its names in the tables, and every setting that determines its result."""

    data: str
    arch: str
    method: str
    seed: int
    subset: Settings
    settings: Settings
    tried: Settings | None = None
    """For a try of the tuning: the settings that are tried."""
    tuned: Settings | None = None
    """For the run of a tuned method: how many settings were tried, their scores and the one chosen."""

    @property
    def key(self) -> str:
        """Hash of the settings: equal settings are run once, whatever the plans call them."""
        return settings_key(self.subset, self.settings)

    @property
    def title(self) -> str:
        """The cell in one line."""
        tried = "" if self.tried is None else f", try {json.dumps(self.tried)}"
        return f"{self.data}, {self.arch}, {self.method}, seed {self.seed}{tried}"


def settings_key(subset: Settings, settings: Settings) -> str:
    """Hash what determines a run's result, without `pixels` pil, which is that of runs older than the setting."""
    own = {name: value for name, value in settings.items() if {name: value} != BEFORE_PIXELS}
    decisive = json.dumps({"subset": subset, **own}, sort_keys=True)
    return hashlib.sha256(decisive.encode()).hexdigest()[:16]


@one_line_errors("tune")
@dataclass(frozen=True, kw_only=True, config=STRICT)
class Tuning:
    """Settings tried on the validation split, before the runs on the test split."""

    tries: dict[str, list[Settings]]
    """Settings to try, by method; the same number for each."""
    seeds: tuple[Seed, ...] = (1000,)
    """Seeds of each try, none of which is a seed of the plan."""


@one_line_errors()
@dataclass(frozen=True, kw_only=True, config=STRICT)
class Plan:
    """Methods to compare, and on what."""

    name: str
    evaluate: Literal["validation", "test"]
    """`validation` (part of the training split) to choose, `test` (the official split) for final results."""
    seeds: tuple[Seed, ...]
    data: Named
    """Data sets by name: keys of `SUBSET`, and `settings` of their runs."""
    archs: Named
    """Networks by name: settings."""
    methods: Named
    """Methods by name: settings. They are compared with `control`."""
    common: Settings = field(default_factory=dict)
    """Settings of all runs."""
    regimes: dict[str, Named] = field(default_factory=dict)
    """Situations by name: `data` and `settings` that replace those of the data set and the network."""
    cells: tuple[tuple[str, ...], ...] | None = None
    """The combinations of data set, network and, if the plan has any, regime to run; all of them if None."""
    control: str = "vanilla"
    tune: Tuning | None = None

    def combinations(self) -> list[tuple[str, ...]]:
        """Return the names of data set, network and, if the plan has any, regime of each cell."""
        return list(self.cells or product(self.data, self.archs, *([self.regimes] if self.regimes else [])))

    def all_cells(self) -> Iterator[Cell]:
        """Yield all runs, seed by seed, so that an interrupted plan still compares all methods; none is tuned."""
        for seed, names, method in product(self.seeds, self.combinations(), self.methods):
            yield self.cell(names, method, seed)

    def cell(
        self, names: Sequence[str], method: str, seed: int, override: Settings | None = None, split: str | None = None
    ) -> Cell:
        """Return one run.

        Args:
            names: One of `combinations`.
            method: One of `methods`.
            seed: Of the run.
            override: Settings that are tried or chosen, which replace the method's.
            split: Where to evaluate; `evaluate` if None.
        """
        data, arch, *regime = names
        entry = dict(self.data[data])
        own, situation = entry.pop("settings", {}), self.regimes[regime[0]] if regime else {}
        settings = merged(
            {"eval_split": split or self.evaluate, "pixels": DataConfig.pixels, **self.common},
            own,
            self.archs[arch],
            situation.get("settings", {}),
            self.methods[method],
            override or {},
            {"seed": seed},
        )
        subset = {**entry, **situation.get("data", {})}
        return Cell(", ".join([data, *regime]), arch, method, seed, subset, settings)


def merged(*parts: Settings) -> Settings:
    """Merge settings; later ones override earlier ones, groups (`model_kwargs`, `ssia`) are merged key by key."""
    result: Settings = {}
    for name, value in (item for part in parts for item in part.items()):
        result[name] = {**result.get(name, {}), **value} if isinstance(value, dict) else value
    return result


def read_plan(path: Path) -> Plan:
    """Read a plan and check its names; `ssia_zoo.arena.checks` checks the settings.

    Raises:
        ConfigError: The file cannot be read, or a key or name in it is unknown or missing.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); expected a plan in YAML") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not valid YAML: {one_line(error, 200)}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a mapping with evaluate, seeds, data, archs and methods")
    with_path = faults_of(str(path))
    if "name" in content:
        raise with_path(ConfigError("name is not a key of a plan, which is called like its file; leave it out"))
    try:
        plan = Plan(name=path.stem, **{str(key): value for key, value in content.items()})
        _check_names(plan)
    except ConfigError as error:
        raise with_path(error) from error
    return plan


def faults_of(where: str) -> Callable[[Exception], ConfigError]:
    """Return a function that says in which part of which plan an error is; its keys are no flags."""
    return lambda error: ConfigError(f"{where}: {one_line(error)}".replace("`", "'"))


def _check_names(plan: Plan) -> None:
    for part in ("seeds", "data", "archs", "methods"):
        values = getattr(plan, part)
        if not values:
            raise ConfigError(f"{part} is empty; expected at least one")
        if len(set(values)) < len(values):
            raise ConfigError(f"{part} holds a value twice: {list(values)}")
    for name, entry in plan.data.items():
        _check_subset(f"data, {name}", entry, required=True)
    for name, regime in plan.regimes.items():
        _known(f"regimes, {name}", regime, ("data", "settings"))
        _check_subset(f"regimes, {name}, data", regime.get("data", {}))
    parts = [("data", plan.data), ("archs", plan.archs), *([("regimes", plan.regimes)] if plan.regimes else [])]
    for cell in plan.cells or ():
        if len(cell) != len(parts):
            raise ConfigError(f"cells, {list(cell)}: expected {len(parts)} names, of {', '.join(p for p, _ in parts)}")
        for name, (part, known) in zip(cell, parts, strict=True):
            _known(f"cells, {list(cell)}", [name], known, part)
    for cell in plan.combinations():
        subset = plan.cell(cell, next(iter(plan.methods)), 0).subset
        if ("train_per_class" in subset) != ("validation_per_class" in subset):
            raise ConfigError(f"data, {', '.join(cell)}: train_per_class and validation_per_class require each other")
    if plan.control != "vanilla":
        _known("control", [plan.control], plan.methods, "methods")
    if plan.tune is not None:
        _check_tuning(plan, plan.tune)


def _check_subset(where: str, entry: Settings, required: bool = False) -> None:
    _known(where, entry, (*SUBSET, *(["settings"] if required else [])))
    if required and "dataset" not in entry:
        raise ConfigError(f"{where}: dataset is missing; expected a folder in the data root, digits or a Hub id")
    share = entry.get("exchanged", 0)
    if type(share) not in (int, float) or not 0 <= share <= 1:
        raise ConfigError(f"{where}: exchanged is {share!r}; expected a fraction of the labels, from 0 to 1")
    for name in ("classes", "train_per_class", "validation_per_class"):
        if name in entry and not (type(entry[name]) is int and entry[name] > 0):
            raise ConfigError(f"{where}: {name} is {entry[name]!r}; expected a number of at least 1")


def _check_tuning(plan: Plan, tune: Tuning) -> None:
    if plan.evaluate != "test":
        raise ConfigError("tune chooses on validation and reports on test; set evaluate to test, or leave tune out")
    _known("tune, tries", tune.tries, plan.methods, "methods")
    counts = {method: len(tries) for method, tries in tune.tries.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values() or not tune.seeds:
        raise ConfigError(
            f"tune, tries: expected the same number for each method, at least 1, and a seed; got {counts}"
        )
    shared = sorted(set(tune.seeds) & set(plan.seeds))
    if shared:
        raise ConfigError(f"tune, seeds {shared} are seeds of the plan too; choose others, which only choose")


def _known(where: str, names: Sequence[str] | Mapping[str, Any], known: Any, part: str = "") -> None:
    for name in names:
        if name not in known:
            hint = did_you_mean(str(name), map(str, known), f"expected one of {', '.join(map(str, known))}")
            raise ConfigError(f"{where}: {name!r} is not {f'in {part}' if part else 'a key'}; {hint}")
