"""Write tables and plots of the runs recorded by accuracy.py into benchmarks/accuracy.md."""

from __future__ import annotations

import json
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch
from matplotlib.figure import Figure
from recording import BENCHMARKS, Record, replace_table
from torch.utils.flop_counter import FlopCounterMode

from ssia_zoo.models.comparison import Comparison, compare
from ssia_zoo.models.weight import PairedRun

REPORT = BENCHMARKS / "accuracy.md"
IMAGES = BENCHMARKS / "images"
CONTROL = "vanilla"

Group = dict[str, dict[Any, Record]]
"""Records by method and seed."""


def write_report(plans: dict[str, list[Record]]) -> None:
    """Replace the generated part of benchmarks/accuracy.md and draw a plot for each plan that has runs."""
    parts = [""]
    for name, runs in plans.items():
        if not runs:
            continue
        parts.append(section(name, runs))
        if picture := draw(name, runs):
            parts.append(f"![paired differences of {name}](images/{picture.name})\n")
    replace_table(REPORT, "accuracy", parts)


def groups(runs: list[Record]) -> dict[tuple[str, str], Group]:
    """Group runs by (data, arch), then method, then seed."""
    found: dict[tuple[str, str], Group] = defaultdict(lambda: defaultdict(dict))
    for run in runs:
        found[run["data"], run["arch"]][run["method"]][run["seed"]] = run
    return found


def paired(group: Group, method: str) -> Comparison | None:
    """Compare a method with the control over the seeds that both have; None if there are none."""
    runs, controls = group[method], group.get(CONTROL, {})
    pairs = [(runs[seed]["top1"], controls[seed]["top1"]) for seed in sorted(runs.keys() & controls.keys())]
    return compare_pairs(pairs) if pairs else None


def compare_pairs(pairs: list[tuple[float, float]]) -> Comparison:
    """Compare (score, score of the control) pairs."""
    return compare([PairedRun(seed=number, ssia=s, vanilla=control) for number, (s, control) in enumerate(pairs)])


def interval(comparison: Comparison | None) -> str:
    """Format the 95 % interval for a table cell."""
    if comparison is None or comparison.interval is None:
        return "–"
    low, high = comparison.interval
    return f"{low:+.2f} to {high:+.2f}"


def section(plan: str, runs: list[Record]) -> str:
    """Return the tables of one plan, one for each data set and architecture."""
    lines = [f"### `{plan}`", ""]
    held = "a part of the training split" if "validation_per_class" in runs[0]["subset"] else "the validation split"
    on = {"validation": held, "test": "the official test split"}[runs[0]["evaluated_on"]]
    lines += [f"{len(runs)} runs, top-1 in percent on {on}.", ""]
    for (data, arch), group in groups(runs).items():
        images = next(iter(next(iter(group.values())).values()))["images"]
        lines += [
            f"`{arch}` on `{data}` (evaluated on {images:,} images)",
            "",
            "| method | at inference | mean | every seed | minus vanilla, paired | 95 % interval | final loss |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += [row(group, method) for method in group] + [""]
    if len(groups(runs)) > 1 and any(run["method"] == CONTROL for run in runs):
        lines += pooled(runs)
    return "\n".join(lines)


def row(group: Group, method: str) -> str:
    """Return a method's table row, with every seed in order."""
    results = [group[method][seed] for seed in sorted(group[method])]
    mean = sum(r["top1"] for r in results) / len(results)
    smoothed = any(r["settings"].get("smoothing") for r in results)  # its loss is not comparable
    loss = "–" if smoothed else f"{sum(r['train_task_loss'] for r in results) / len(results):.3f}"
    seeds = " / ".join(f"{r['top1']:.2f}" for r in results)
    comparison = paired(group, method) if method != CONTROL else None
    difference = f"{comparison.difference:+.2f}" if comparison else "–"
    cost = inference_cost(results[0])
    return f"| {method} | {cost} | {mean:.2f} | {seeds} | {difference} | {interval(comparison)} | {loss} |"


def inference_cost(result: Record) -> str:
    """Return parameters and FLOPs per image (as counted by PyTorch) of the network without its training heads."""
    settings = result["settings"]
    kwargs = json.dumps(settings.get("model_kwargs", {}), sort_keys=True)
    if "classes" not in result["subset"] or ":" in settings["model"]:  # not recorded; not a name of timm
        return "–"
    parameters, flops = _size(settings["model"], kwargs, settings["image_size"], result["subset"]["classes"])
    return f"{parameters / 1e6:.3f} M, {flops / 1e6:.1f} MFLOPs"


@cache
def _size(architecture: str, kwargs: str, image_size: int, classes: int) -> tuple[int, int]:
    with torch.device("meta"):
        model = timm.create_model(architecture, num_classes=classes, **json.loads(kwargs)).eval()
        image = torch.zeros(1, 3, image_size, image_size)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(image)
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops()


def pooled(runs: list[Record]) -> list[str]:
    """Compare each method with the control over the cells, each cell counted once by the mean of its seeds."""
    lines = [
        "All cells (a cell is one network on one data set), each counted once with the mean of its paired differences.",
        "The 95 % t-interval is over the cells; it holds for other networks and data as far as these represent them.",
        "",
        "| method | cells | pairs | minus vanilla | 95 % interval | above zero in |",
        "|---|---|---|---|---|---|",
    ]
    found = groups(runs).values()
    for method in {method: None for group in found for method in group if method != CONTROL}:
        cells = [comparison for group in found if method in group and (comparison := paired(group, method))]
        if not cells:
            continue
        over = compare_pairs([(cell.ssia_mean, cell.vanilla_mean) for cell in cells])
        above = sum(cell.difference > 0 for cell in cells)
        lines.append(
            f"| {method} | {len(cells)} | {sum(cell.seeds for cell in cells)} | {over.difference:+.2f} "
            f"| {interval(over)} | {above} |"
        )
    return [*lines, ""]


def draw(plan: str, runs: list[Record]) -> Path | None:
    """Plot paired differences with their intervals, one panel for each data set and architecture.

    Returns:
        The image file; None if no method can be compared with the control.
    """
    found = {key: [m for m in group if m != CONTROL and paired(group, m)] for key, group in groups(runs).items()}
    found = {key: methods for key, methods in found.items() if methods}
    if not found:
        return None
    height = 0.6 + 0.28 * max(map(len, found.values()))
    figure = Figure(figsize=(9, 0.4 + height * ((len(found) + 1) // 2)), layout="constrained")
    axes = figure.subplots((len(found) + 1) // 2, 2, squeeze=False, sharex=True).flat
    for panel, ((data, arch), methods) in zip(axes, found.items(), strict=False):
        for place, method in enumerate(reversed(methods)):
            comparison = paired(groups(runs)[data, arch], method)
            low, high = comparison.interval or (comparison.difference,) * 2
            panel.plot([low, high], [place, place], color="tab:blue")
            panel.plot(comparison.difference, place, "o", color="tab:blue")
        panel.axvline(0, color="gray", linewidth=0.8)
        panel.set_yticks(range(len(methods)), list(reversed(methods)), fontsize=8)
        panel.set_title(f"{arch}, {data}", fontsize=9)
    for panel in list(axes)[len(found) :]:
        panel.set_axis_off()
    figure.supxlabel("top-1 minus vanilla's, points; paired by seed, 95 % interval", fontsize=9)
    path = IMAGES / f"accuracy_{plan.replace(', ', '_').replace(' ', '_')}.png"
    figure.savefig(path, dpi=110)
    return path
