"""Compare training methods fairly: plans of runs that are paired by seed, run in processes, recorded and tabulated."""

from ssia_zoo.arena.plan import Plan, read_plan
from ssia_zoo.arena.report import write_report
from ssia_zoo.arena.results import Results, read_results
from ssia_zoo.arena.runner import Options, Outcome, run_plan

__all__ = ["Options", "Outcome", "Plan", "Results", "read_plan", "read_results", "run_plan", "write_report"]
