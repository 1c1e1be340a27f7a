"""Choose settings of each method on validation images, by the same number of tries for every method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from statistics import mean

from ssia_zoo.arena.plan import Cell, Plan, Settings
from ssia_zoo.arena.records import Record


@dataclass(frozen=True)
class Choice:
    """The tries of one method in one cell, and which was the best."""

    names: tuple[str, ...]
    """Data set, network and, if the plan has any, regime."""
    method: str
    tries: tuple[tuple[Cell, ...], ...]
    """Runs of each try, one a seed."""
    scores: tuple[tuple[float | None, ...], ...]
    """Their top-1 on the validation images; None for what has not run."""

    @property
    def chosen(self) -> int | None:
        """The try with the highest mean, the first of equal ones; None before all have run."""
        if any(score is None for scores in self.scores for score in scores):
            return None
        means = [mean(score for score in scores if score is not None) for scores in self.scores]
        return means.index(max(means))

    def describe(self) -> Settings | None:
        """Return what a record states about the choice; None before all tries have run."""
        if self.chosen is None:
            return None
        tries = [runs[0].tried for runs in self.tries]
        scores = [list(scores) for scores in self.scores]
        return {"tries": len(tries), "chosen": tries[self.chosen], "tried": tries, "scores": scores}


def choices(plan: Plan, records: Mapping[str, Record]) -> list[Choice]:
    """Return the tries of all tuned methods in all cells of a plan, with the scores that are recorded."""
    if plan.tune is None:
        return []
    found = []
    for names, (method, tries) in product(plan.combinations(), plan.tune.tries.items()):
        runs = tuple(
            tuple(
                replace(plan.cell(names, method, seed, override, "validation"), tried=override)
                for seed in plan.tune.seeds
            )
            for override in tries
        )
        scores = tuple(tuple(_score(records, cell) for cell in of_try) for of_try in runs)
        found.append(Choice(tuple(names), method, runs, scores))
    return found


def _score(records: Mapping[str, Record], cell: Cell) -> float | None:
    record = records.get(cell.key)
    return None if record is None else float(record["top1"])


@dataclass(frozen=True)
class Schedule:
    """The runs of a plan, as far as they are determined."""

    tries: tuple[Cell, ...]
    cells: tuple[Cell, ...]
    """The compared runs whose settings are known."""
    undecided: tuple[Cell, ...]
    """Compared runs of tuned methods whose tries have not all run; their settings are not final."""

    def pending(self, records: Mapping[str, Record]) -> Iterator[Cell]:
        """Yield the runs that can start and are not recorded, the tries first; each key once."""
        seen = set(records)
        for cell in (*self.tries, *self.cells):
            if cell.key not in seen:
                seen.add(cell.key)
                yield cell


def schedule(plan: Plan, records: Mapping[str, Record]) -> Schedule:
    """Return the tries and runs of a plan, with the settings that the recorded tries choose."""
    found = choices(plan, records)
    chosen = {(choice.names, choice.method): choice for choice in found}
    cells, undecided = [], []
    for seed, names, method in product(plan.seeds, plan.combinations(), plan.methods):
        choice = chosen.get((tuple(names), method))
        about = None if choice is None else choice.describe()
        if choice is None:
            cells.append(plan.cell(names, method, seed))
        elif about is None:
            undecided.append(plan.cell(names, method, seed))
        else:
            cells.append(replace(plan.cell(names, method, seed, about["chosen"]), tuned=about))
    tries = [cell for choice in found for runs in choice.tries for cell in runs]
    return Schedule(tuple(_by_seed(tries)), tuple(cells), tuple(undecided))


def _by_seed(cells: Sequence[Cell]) -> list[Cell]:
    return sorted(cells, key=lambda cell: cell.seed)
