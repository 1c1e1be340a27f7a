"""Tables of a plan's runs in Markdown: every seed, paired differences, intervals, cost, and what is missing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean

import timm
import torch
from timm.models import resolve_model_input_args
from torch.utils.flop_counter import FlopCounterMode

from ssia_zoo.arena.fairness import check_fairness, fairness_lines
from ssia_zoo.arena.records import Record
from ssia_zoo.arena.results import Group, Results, groups, paired_answers, paired_seeds
from ssia_zoo.arena.statistics import compare_pairs, holm, over_images, p_value
from ssia_zoo.models.comparison import Comparison

CONTROL = "vanilla"
NONE = "–"

_MOST_MISSING = 10


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A method compared with the control in one cell: one network on one data set."""

    data: str
    arch: str
    method: str
    comparison: Comparison
    adjusted: float | None
    """p-value of the paired t-test, adjusted by Holm's method for the methods of the cell; None without interval"""
    over_images: tuple[float, float] | None
    """95 % bootstrap interval over images; None where the answers are not stored"""


def compare_cell(
    data: str, arch: str, group: Group, control: str = CONTROL, records: Path | None = None
) -> list[Compared]:
    """Compare all methods of a cell with the control.

    Args:
        data: Name of the data set.
        arch: Name of the network.
        group: Runs by method and seed.
        control: Method to compare with.
        records: The file of records, beside which answers are; without them there is no interval over images.
    """
    found = {method: paired(group, method, control) for method in group if method != control}
    tested = {m: p for m in found if (p := p_value(score_pairs(group, m, control))) is not None}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    return [
        Compared(
            data=data,
            arch=arch,
            method=method,
            comparison=comparison,
            adjusted=adjusted.get(method),
            over_images=None if records is None else _over_images(records, group, method, control),
        )
        for method, comparison in found.items()
        if comparison is not None
    ]


def _over_images(records: Path, group: Group, method: str, control: str) -> tuple[float, float] | None:
    answers = paired_answers(records, group[method], group[control])
    if answers is None or len({len(own) for own, _ in answers}) > 1:
        return None
    return over_images([own.correct.astype(float) - its.correct for own, its in answers])


def score_pairs(group: Group, method: str, control: str = CONTROL) -> list[tuple[float, float]]:
    """Return (score, score of the control) for the seeds that both have."""
    seeds = paired_seeds(group, method, control)
    return [(group[method][seed]["top1"], group[control][seed]["top1"]) for seed in seeds]


def paired(group: Group, method: str, control: str = CONTROL) -> Comparison | None:
    """Compare a method with the control over the seeds that both have; None if there are none."""
    pairs = score_pairs(group, method, control)
    return compare_pairs(pairs) if pairs else None


def format_interval(interval: tuple[float, float] | None) -> str:
    """Format an interval for a table cell."""
    return NONE if interval is None else f"{interval[0]:+.2f} to {interval[1]:+.2f}"


def format_p(value: float | None) -> str:
    """Format a p-value for a table cell."""
    return NONE if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def section(name: str, runs: Sequence[Record], control: str = CONTROL, records: Path | None = None) -> str:
    """Return the tables of one plan, one for each data set and network.

    Args:
        name: Heading.
        runs: At least one.
        control: Method to compare with.
        records: The file of records, beside which the answers are.
    """
    held = "a part of the training split" if "validation_per_class" in runs[0]["subset"] else "the validation split"
    on = {"validation": held, "test": "the official test split"}[runs[0]["evaluated_on"]]
    lines = [f"### `{name}`", "", f"{len(runs)} runs, top-1 in percent on {on}.", ""]
    found = groups(runs)
    for (data, arch), group in found.items():
        images = next(iter(next(iter(group.values())).values()))["images"]
        compared = {row.method: row for row in compare_cell(data, arch, group, control, records)}
        rows = [_row(group, method, compared.get(method), control) for method in group]
        lines += [f"`{arch}` on `{data}` (evaluated on {images:,} images)", "", *markdown(rows), ""]
    if len(found) > 1 and any(run["method"] == control for run in runs):
        lines += pooled(runs, control)
    return "\n".join(lines)


def markdown(rows: Sequence[dict[str, str]]) -> list[str]:
    """Return the lines of a Markdown table, without columns that are empty in all rows."""
    columns = [name for name in rows[0] if any(row[name] != NONE for row in rows)]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return lines + ["| " + " | ".join(row[name].replace("|", "\\|") for name in columns) + " |" for row in rows]


def _row(group: Group, method: str, compared: Compared | None, control: str) -> dict[str, str]:
    """Return a method's table row, with every seed in order."""
    results = [group[method][seed] for seed in sorted(group[method])]
    smoothed = any(r["settings"].get("smoothing") for r in results)  # its loss is not comparable
    comparison = None if compared is None else compared.comparison
    return {
        "method": method,
        "at inference": inference_cost(results[0]),
        "time": _mean(results, "seconds", "{:.0f} s"),
        "memory": _mean(results, "memory_mb", "{:.0f} MB"),
        "GPU memory": _mean(results, "gpu_memory_mb", "{:.0f} MB"),
        "gradients": _mean(results, "gradient_mb", "{:.2f} MB"),
        "mean": f"{mean(r['top1'] for r in results):.2f}",
        "every seed": " / ".join(f"{r['top1']:.2f}" for r in results),
        f"minus {control}, paired": NONE if comparison is None else f"{comparison.difference:+.2f}",
        "95 % interval": format_interval(None if comparison is None else comparison.interval),
        "p, Holm": format_p(None if compared is None else compared.adjusted),
        "over images": format_interval(None if compared is None else compared.over_images),
        "final loss": NONE if smoothed else _mean(results, "train_task_loss", "{:.3f}"),
    }


def _mean(results: Sequence[Record], name: str, form: str) -> str:
    values = [result[name] for result in results if name in result]
    return form.format(mean(values)) if values else NONE


def inference_cost(result: Record) -> str:
    """Return parameters and FLOPs per image (as counted by PyTorch) of the network without its training heads."""
    settings = result["settings"]
    kwargs = json.dumps(settings.get("model_kwargs", {}), sort_keys=True)
    size = settings.get("image_size")
    if "classes" not in result["subset"] or not timm.is_model(settings["model"]) or type(size) is not int:
        return NONE
    channels = settings.get("in_chans") or 3
    parameters, flops = _size(settings["model"], kwargs, size, result["subset"]["classes"], channels)
    return f"{parameters / 1e6:.3f} M, {flops / 1e6:.1f} MFLOPs"


@cache
def _size(architecture: str, kwargs: str, image_size: int, classes: int, channels: int) -> tuple[int, int]:
    img_size = resolve_model_input_args(architecture, {"img_size": (image_size, image_size)}).get("img_size")
    with torch.device("meta"):
        arguments = {"num_classes": classes, "in_chans": channels, **json.loads(kwargs)}
        model = timm.create_model(architecture, img_size=img_size, **arguments).eval()  # None for models of any size
        image = torch.zeros(1, channels, image_size, image_size)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(image)
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops()


def pooled(runs: Sequence[Record], control: str = CONTROL) -> list[str]:
    """Compare each method with the control over the cells, each cell counted once by the mean of its seeds."""
    lines = [
        "All cells (a cell is one network on one data set), each counted once with the mean of its paired differences.",
        "The 95 % t-interval is over the cells; it holds for other networks and data as far as these represent them.",
        "",
    ]
    rows = []
    found = groups(runs).values()
    for method in {method: None for group in found for method in group if method != control}:
        cells = [comparison for group in found if method in group and (comparison := paired(group, method, control))]
        if not cells:
            continue
        over = compare_pairs([(cell.ssia_mean, cell.vanilla_mean) for cell in cells])
        rows.append(
            {
                "method": method,
                "cells": str(len(cells)),
                "pairs": str(sum(cell.seeds for cell in cells)),
                f"minus {control}": f"{over.difference:+.2f}",
                "95 % interval": format_interval(over.interval),
                "above zero in": str(sum(cell.difference > 0 for cell in cells)),
            }
        )
    return [*lines, *markdown(rows), ""] if rows else []


def results_section(results: Results) -> str:
    """Return the tables of a plan with the choices of its tuning, its fairness, and what is missing."""
    name, control = results.plan.name, results.plan.control
    lines = (
        [section(name, results.runs, control, results.records)] if results.runs else [f"### `{name}`", "", "No runs."]
    )
    if results.choices:
        lines += ["", "Tuning, top-1 in percent on the validation images:", "", *markdown(_choices(results)), ""]
    lines += ["", *fairness_lines(check_fairness(results)), ""]
    if results.missing:
        lines += [f"Missing: {len(results.missing)} runs.", ""]
        lines += [f"- {title}: {reason}" for title, reason in results.missing[:_MOST_MISSING]]
        if len(results.missing) > _MOST_MISSING:
            lines.append(f"- and {len(results.missing) - _MOST_MISSING} more")
        lines.append("")
    return "\n".join(lines)


def _choices(results: Results) -> list[dict[str, str]]:
    rows = []
    for choice in results.choices:
        tries = [
            f"{json.dumps(runs[0].tried)}: {' / '.join(NONE if score is None else f'{score:.2f}' for score in scores)}"
            for runs, scores in zip(choice.tries, choice.scores, strict=True)
        ]
        about = choice.describe()
        chosen = NONE if about is None else json.dumps(about["chosen"])
        cell = " on ".join([choice.names[1], ", ".join([choice.names[0], *choice.names[2:]])])
        rows.append({"cell": cell, "method": choice.method, "tries": "; ".join(tries), "chosen": chosen})
    return rows
