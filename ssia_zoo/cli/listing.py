"""Format published weights as a table, a page or JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from statistics import fmean, stdev
from typing import Any

from ssia_zoo.models.listing import mean_difference, summary, weight_file
from ssia_zoo.models.reproduce import flags, legend, needed_folders
from ssia_zoo.models.weight import PublishedWeight

_WIDTH = 100
_DATA_WIDTH = 28
_RECONSTRUCTION = (
    "The SSIA loss is a reconstruction from the abstract of arXiv 2206.07434; the paper's formulas were not available, "
    "and its results are not claimed to be reproduced."
)


def table(configs: Iterable[PublishedWeight]) -> str:
    """Return a table with one row per weight and a legend."""
    heads = ("WEIGHT", "TRAINED ON", "CLASSES", "INPUT", "TOP-1", "CONTROL", "MEAN DIFF.", "SIZE", "WHERE")
    rows = [heads]
    for config in configs:
        row = summary(config)
        rows.append(
            (
                row["name"] + ("*" if row["default"] else ""),
                textwrap.shorten(row["dataset"].split(" (")[0], _DATA_WIDTH, placeholder="…"),
                str(row["classes"]),
                "×".join(map(str, row["input_size"][1:])),
                f"{row['top1']:.2f}",
                f"{row['control_top1']:.2f}",
                f"{row['mean_difference']:+.2f} ({row['seeds']})",
                _megabytes(row["bytes"]),
                row["place"],
            )
        )
    return (
        f"{align(rows, right=(2, 3, 4, 5, 6, 7))}\n\n"
        "* used when the name has no tag. Top-1 of the published file, percent; control: same seed without SSIA;\n"
        "mean diff.: SSIA minus control over the given number of seeds. Details: `ssia-zoo info NAME`."
    )


def align(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Align rows in columns two spaces apart; columns whose index is in `right` are right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            text.rjust(width) if column in right else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _megabytes(size: int | None) -> str:
    return "?" if size is None else f"{size / 1e6:.1f} MB"


def details(config: PublishedWeight) -> dict[str, Any]:
    """Return everything that is published about a weight, for JSON."""
    return {
        "name": config.name,
        **asdict(config),
        "mean_difference": mean_difference(config.metrics.runs),
        "bytes": weight_file(config)[0],
        "reproduce": _reproduce(config),
        "note": _RECONSTRUCTION,
    }


def _reproduce(config: PublishedWeight) -> str:
    """Return the command that repeats the training, with capitals for a folder that the user must have."""
    return f"ssia-zoo train --config {config.name}{flags(needed_folders(config))} --output-dir runs/again"


def page(config: PublishedWeight) -> str:
    """Return a page with everything that is published about a weight."""
    size, place = weight_file(config)
    height_width = "×".join(map(str, config.input_size[1:]))
    where = f"{place}, {_megabytes(size)}"
    where += f", {config.file} (float16)" if config.file else f", {config.repo_id} at {config.revision}"
    facts = [
        ("architecture", f"timm's {config.architecture}, unchanged"),
        ("create", f'timm.create_model("{config.name}", pretrained=True)'),
        ("default", f"yes: {config.arch_name} is this weight" if config.default else "no: use the name with tag"),
        ("file", where),
        ("sha256", str(config.sha256 or config.repo_sha256)),
        ("licence", config.license),
        ("trained on", config.dataset.name),
        ("data source", config.dataset.source),
        ("data licence", config.dataset.license),
        ("data terms", config.dataset.terms),
        ("classes", f"{config.num_classes}: {_shortened(config.label_names)}"),
        (
            "preprocessing",
            f"RGB, {height_width} pixels, {config.interpolation}, crop {config.crop_pct:g} ({config.crop_mode}), "
            f"mean {_numbers(config.mean)}, std {_numbers(config.std)}",
        ),
    ]
    settings = [(key, _value(value)) for key, value in config.training.items() if value is not None]
    environment = ", ".join(f"{key} {value}" for key, value in config.environment.items())
    return "\n".join(
        [
            config.name,
            *_wrap(config.description),
            "",
            *_facts(facts),
            "",
            *_measured(config),
            "",
            "Training (only settings that are set)",
            *_facts(settings, indent="  "),
            *_facts([("environment", environment)], indent="  "),
            "",
            "To reproduce it",
            f"  {_reproduce(config)}",
            *(f"  {line}" for line in legend(needed_folders(config))),
            "",
            *_wrap(_RECONSTRUCTION),
        ]
    )


def _measured(config: PublishedWeight) -> list[str]:
    metrics = config.metrics
    differences = [run.ssia - run.vanilla for run in metrics.runs]
    rows = [("seed", "SSIA", "vanilla", "difference")]
    for run, difference in zip(metrics.runs, differences, strict=True):
        rows.append((str(run.seed), f"{run.ssia:.2f}", f"{run.vanilla:.2f}", f"{difference:+.2f}"))
    means = (fmean(run.ssia for run in metrics.runs), fmean(run.vanilla for run in metrics.runs))
    rows.append(("mean", f"{means[0]:.2f}", f"{means[1]:.2f}", f"{fmean(differences):+.2f}"))
    spread = f", standard deviation {stdev(differences):.2f}" if len(differences) > 1 else ", one seed: not significant"
    return [
        f"Top-1 in percent on {metrics.split}, {metrics.images} images; all seeds that were run",
        *textwrap.indent(align(rows, right=(0, 1, 2, 3)), "  ").splitlines(),
        f"  mean paired difference {fmean(differences):+.2f} points{spread}",
        f"  published: seed {metrics.seed}; top-1 of its file in timm {metrics.top1:.2f}, of its control "
        f"{metrics.control_top1:.2f}",
    ]


def _facts(facts: Sequence[tuple[str, str]], indent: str = "") -> list[str]:
    width = max((len(key) for key, _ in facts), default=0) + 2
    lines = []
    for key, value in facts:
        first = f"{indent}{key:{width}}"
        lines += textwrap.wrap(
            value or "–",
            _WIDTH,
            initial_indent=first,
            subsequent_indent=" " * len(first),
            break_long_words=False,
            break_on_hyphens=False,
        )
    return lines


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False)


def _numbers(values: Iterable[float]) -> str:
    return " ".join(f"{value:.4g}" for value in values)


def _shortened(names: Sequence[str], most: int = 20) -> str:
    return ", ".join(names) if len(names) <= most else f"{', '.join(names[: most - 1])}, … {names[-1]}"


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return " ".join(_value(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
