"""The command `arena`: run a plan of comparable runs, report on it, count the seeds it needs, check it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from ssia_zoo.cli.console import DONE, FAILED, complain
from ssia_zoo.cli.listing import align

_RECORDS = Path("runs/arena/records.jsonl")
_WORK = Path("runs/arena/work")
_Plan = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PLAN")]
_Plans = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PLAN...")]


def arena(args: Sequence[str]) -> int | None:
    """Compare training methods fairly: plans of runs, paired by seed.

    For example:
      ssia-zoo arena check plan.yaml
      ssia-zoo arena run plan.yaml --data-root data --jobs 2 --minutes 50
      ssia-zoo arena report plan.yaml --output report
      ssia-zoo arena power plan.yaml --difference 0.5

    docs/arena.md describes plans, and the rules that make a comparison fair.

    Args:
        args: Words after `ssia-zoo arena`.

    Returns:
        The exit status.
    """
    config = (tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)
    description = inspect.cleandoc(str(arena.__doc__)).partition("\n\nArgs:")[0]
    commands: dict[str, Callable[..., Any]] = {"run": run, "report": report, "power": power, "check": check}
    status: int | None = tyro.extras.subcommand_cli_from_dict(
        commands, prog="ssia-zoo arena", description=description, args=list(args), config=config
    )
    return status


def run(
    plan: _Plan,
    data_root: Path | None = None,
    records: Path = _RECORDS,
    work: Path = _WORK,
    jobs: int = 1,
    minutes: float | None = None,
    models: Path | None = None,
) -> int:
    """Run what a plan lacks; an interrupted plan goes on where it stopped.

    Args:
        plan: YAML file.
        data_root: Folder that contains the plan's data sets, each a folder of parquet files; not needed for digits and
            for ids of the Hub.
        records: Results, a JSON line each; the answers to every image are stored in the folder answers beside it.
        work: Folder for subsets and unfinished runs.
        jobs: Parallel runs, each on one GPU or on one CPU thread; more jobs than GPUs share them.
        minutes: Stop after this time, at a checkpoint; the same command goes on.
        models: Keep each run's model in this folder, named by the run's key in the records; by default none is kept.
    """
    from ssia_zoo.arena.plan import read_plan
    from ssia_zoo.arena.runner import Options, run_plan

    options = Options(records=records, work=work, data_root=data_root, jobs=jobs, minutes=minutes, models=models)
    outcome = run_plan(read_plan(plan), options, lambda line: print(line, flush=True))
    print(f"{outcome.done} runs recorded in {records}, {len(outcome.failed)} failed, {outcome.left} of the plan left")
    if outcome.failed:
        complain(f"error: {len(outcome.failed)} runs failed; the same command tries them again")
        return FAILED
    return DONE


def report(
    plans: _Plans, records: Path = _RECORDS, output: Path = Path("runs/arena/report"), leaderboard: Path | None = None
) -> None:
    """Write tables, CSV files and plots of what is recorded.

    Args:
        plans: YAML files.
        records: File of results.
        output: Folder for report.md, runs.csv, comparisons.csv and plots.
        leaderboard: Markdown page whose part between `<!-- leaderboard: begin -->` and `<!-- leaderboard: end -->` to
            replace by one table of all comparisons on test splits.
    """
    from ssia_zoo.arena.leaderboard import leaderboard as make_leaderboard
    from ssia_zoo.arena.report import replace_between, write_report

    found = _read(plans, records)
    if leaderboard is not None:
        replace_between(leaderboard, "leaderboard", make_leaderboard(found))
    for path in write_report(found, output):
        print(path)
    for results in found:
        missing = f", {len(results.missing)} missing" if results.missing else ""
        print(f"{results.plan.name}: {len(results.runs)} runs{missing}")


def power(plans: _Plans, difference: float, records: Path = _RECORDS, power: float = 0.8, alpha: float = 0.05) -> None:
    """Count the seeds that show a difference, by the spread of the recorded ones.

    Args:
        plans: YAML files.
        difference: Points of top-1 to show.
        records: File of results.
        power: Probability to show it.
        alpha: Level of the two-sided paired t-test.
    """
    from ssia_zoo.arena.power import power_rows

    rows = power_rows(_read(plans, records), difference, power, alpha)
    print(f"Seeds to show {difference:+g} points with probability {power:g} (paired t-test, level {alpha:g}):\n")
    print(align([("CELL", "METHOD", "PAIRS", "SPREAD", "80 % INTERVAL", "SEEDS", "FOR THE INTERVAL"), *rows]))


def check(plans: _Plans, data_root: Path | None = None, records: Path = _RECORDS) -> int:
    """Check plans without running them, and from the records that the comparison was fair.

    Args:
        plans: YAML files.
        data_root: Folder that contains the plans' data sets.
        records: File of results.
    """
    from ssia_zoo.arena.checks import check_plan
    from ssia_zoo.arena.fairness import check_fairness, fairness_lines

    unfair = 0
    for results in _read(plans, records):
        check_plan(results.plan, data_root)
        fairness = check_fairness(results)
        unfair += bool(fairness.faults)
        print(f"{results.plan.name}: the plan is valid; {len(results.runs)} runs, {len(results.missing)} missing")
        if results.plan.control not in results.plan.methods:
            print(f"no method is called {results.plan.control}: nothing is compared, unless `control` names another")
        print("\n".join(fairness_lines(fairness)))
    if unfair:
        complain(f"error: {unfair} of {len(plans)} plans were not compared fairly, as listed")
    return FAILED if unfair else DONE


def _read(plans: Sequence[Path], records: Path) -> list[Any]:
    from ssia_zoo.arena.checks import check_names
    from ssia_zoo.arena.plan import read_plan
    from ssia_zoo.arena.results import read_results
    from ssia_zoo.cli.console import UsageError

    if not plans:
        raise UsageError("no plan given; give one or more YAML files")
    check_names([path.stem for path in plans])
    return [read_results(read_plan(path), records) for path in plans]
