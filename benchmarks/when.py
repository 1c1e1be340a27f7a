"""Write the table and the picture of docs/when.md: what SSIA gains in which situation. Called by accuracy.py report.

A situation is one network on one data set. The forms are recognized by their settings, not by the names in the plans.
Every situation that has runs of vanilla and of the default form on a test split is in `SITUATIONS`, whatever it shows.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import yaml
from matplotlib.figure import Figure
from recording import BENCHMARKS, RESULTS, ROOT, Record, read_results, replace_table

from ssia_zoo.arena.results import Group
from ssia_zoo.arena.tables import paired
from ssia_zoo.models.comparison import Comparison

PAGE = ROOT / "docs" / "when.md"
PICTURE = ROOT / "docs" / "images" / "when.png"
FORMS = {"default": "default", "memory": "with a memory", "label-free": "label-free", "dsn": "DSN"}
"""Columns: key and heading."""
_COLORS = dict(zip(FORMS, ("tab:blue", "tab:orange", "tab:green", "tab:gray"), strict=True))

SITUATIONS = {
    "fine-tune on 100 photos a class: EfficientNet-Lite0, CIFAR-10 at 96 px": ("cifar_finetune", "c10 1000"),
    "the same with EfficientNet-Lite2": ("cifar_finetune_lite2", "c10 1000"),
    "fine-tune on 500 photos a class: EfficientNet-Lite0, CIFAR-10 at 96 px": ("cifar_finetune_5000", "c10 5000"),
    "fine-tune on 33 photos a class: EfficientNet-Lite0, Grocery at 128 px": ("grocery_r128", "grocery"),
    "fine-tune on 33 photos a class at 160 px: EfficientNet-Lite0, Grocery at 224 px": ("weights", "grocery_r224"),
    "trained at 224 px too, with RandAugment and a third of the learning rate": ("grocery_r224", "grocery"),
    "40 % of the labels wrong: half-width ResNet-18, CIFAR-10": ("wrong_labels", "worse"),
    "40 % wrong, the same images: narrow ConvNeXt-Atto": ("wrong_labels_convnext", "worse"),
    "40 % wrong, half of the images, 100 epochs, until fitted: half-width ResNet-18": (
        "wrong_labels_long",
        "worse",
    ),
    "20 % wrong: EfficientNet-Lite0, Grocery at 128 px": ("grocery_exchanged", "grocery, a fifth exchanged"),
    "17 % wrong: half-width ResNet-18, CIFAR-10": ("wrong_labels_fewer", "random1"),
    "9 % wrong: half-width ResNet-18, CIFAR-10": ("wrong_labels_fewer", "aggre"),
    "right labels: half-width ResNet-18, CIFAR-10": ("clean_short", "clean"),
    "right labels, half of the images, 100 epochs, until fitted: half-width ResNet-18": ("clean_long", "clean"),
    "right labels: small ViT, CIFAR-10 at 64 px": ("clean_vit", "clean"),
    "a third of the labels wrong: quarter-width ResNet-18, 8x8 digits": ("demo", "digits"),
    "from scratch, 50,000 images: ResNet-50, CIFAR-10 at 32 px": ("weights", "c10_r32", "resnet50"),
    "from scratch: ResNet-18, CIFAR-10 at 32 px": ("weights", "c10_r32", "resnet18"),
    "from scratch: MobileNetV3-S, CIFAR-10 at 64 px": ("weights", "c10_r64, not published", "mobilenetv3_small_100"),
    "from scratch: ConvNeXt-Atto, CIFAR-10 at 32 px": ("weights", "c10_r32, not published", "convnext_atto"),
    "from scratch, 1,437 images: half-width MobileNetV3-S, digits at 32 px": ("weights", "digits_r32"),
    "from scratch, 100,000 images: ResNet-18, Tiny-ImageNet at 64 px": ("weights", "tin_r64", "resnet18"),
}
"""Situation: plan (or the published weights), data, and the architecture if there are several."""


def form(settings: Record) -> str | None:
    """Return which form of training these settings are; None for one that has no column."""
    method, ssia = settings["method"], settings.get("ssia") or {}
    if method == "dsn" or (method == "vanilla" and not settings.get("smoothing")):
        return str(method)
    if method != "ssia" or ssia.get("pooling", "average") != "average" or ssia.get("weight") == 0:
        return None
    if not ssia.get("labels"):  # the first records are older than labels
        return "label-free"
    if not ssia["handover"]:
        return None
    return "memory" if ssia.get("supervisor") == "memory" else "default"


def situation_runs(plans: dict[str, list[Record]], plan: str, data: str, arch: str | None = None) -> Group:
    """Return the runs of a situation by form and seed."""
    runs = [
        run
        for run in plans.get(plan, [])
        if run["data"] == data and run["evaluated_on"] == "test" and arch in (None, run["arch"])
    ]
    # What every run has is part of the recipe; more than that makes another method.
    common = min((run["settings"].get("smoothing", 0) for run in runs), default=0)
    found: Group = defaultdict(dict)
    for run in runs:
        if name := form({**run["settings"], "smoothing": run["settings"].get("smoothing", 0) - common}):
            found[name][run["seed"]] = run
    return found


def grocery_r224() -> list[Record]:
    """Return the runs of results/grocery_r224.jsonl, which were made by the GPU queue, in the format of a plan's."""
    recipe = yaml.safe_load((BENCHMARKS / "recipes" / "tf_efficientnet_lite0_ssia.grocery_r224.yaml").read_text())
    return [
        {
            **{"data": "grocery", "arch": "tf_efficientnet_lite0", "evaluated_on": "test"},
            **{"images": run["test_images"], "seed": run["seed"], "top1": run["test"]["top1"]},
            "settings": {**recipe, "method": run["method"]},
        }
        for run in read_results(RESULTS / "grocery_r224.jsonl")
    ]


def demo() -> list[Record]:
    """Return the runs of results/demo.jsonl (demo_seeds.py) on the test images, in the format of a plan's."""
    runs = [run for run in read_results(RESULTS / "demo.jsonl") if run["evaluated_on"] == "test"]
    return [{**run, "data": "digits", "arch": run["settings"]["model"]} for run in runs]


def cell(comparison: Comparison | None) -> str:
    """Format a paired difference: in bold where the interval is above zero."""
    if comparison is None:
        return "–"
    text = f"{comparison.difference:+.2f}"
    if comparison.interval is None:
        return f"{text} ({comparison.seeds} seed{'s' * (comparison.seeds > 1)})"
    low, high = comparison.interval
    return f"{f'**{text}**' if low > 0 else text} ({low:+.2f} to {high:+.2f}; {comparison.seeds})"


def write_when(plans: dict[str, list[Record]]) -> None:
    """Replace the generated table of docs/when.md and draw its picture."""
    plans = {**plans, "grocery_r224": grocery_r224(), "demo": demo()}
    compared: dict[str, dict[str, Comparison]] = {}
    lines = [
        f"| situation | vanilla | {' | '.join(FORMS.values())} | default minus DSN | memory minus DSN |",
        "|---" * (len(FORMS) + 4) + "|",
    ]
    for situation, where in SITUATIONS.items():
        group = situation_runs(plans, *where)
        if not group.get("vanilla"):
            continue
        found = {name: paired(group, name) for name in FORMS if name in group}
        if not any(found.values()):
            continue
        compared[situation] = {name: comparison for name, comparison in found.items() if comparison}
        scores = [run["top1"] for run in group["vanilla"].values()]
        columns = [f"{sum(scores) / len(scores):.2f}", *(cell(compared[situation].get(name)) for name in FORMS)]
        columns += [cell(paired(group, name, "dsn")) for name in ("default", "memory")]
        lines.append(f"| {situation} | {' | '.join(columns)} |")
    replace_table(PAGE, "when", lines)
    draw(compared, PICTURE)


def draw(compared: dict[str, dict[str, Comparison]], path: Path) -> None:
    """Draw the paired differences of all situations with their intervals."""
    figure = Figure(figsize=(8, 0.6 + 0.55 * len(compared)), layout="constrained")
    axes = figure.subplots()
    for row, found in enumerate(reversed(compared.values())):
        for name, comparison in found.items():
            place = row + 0.27 - 0.18 * list(FORMS).index(name)
            low, high = comparison.interval or (comparison.difference,) * 2
            axes.plot([low, high], [place, place], color=_COLORS[name], linewidth=1.5)
            axes.plot(comparison.difference, place, "o", color=_COLORS[name], markersize=4)
    for name, heading in FORMS.items():
        axes.plot([], [], "o-", color=_COLORS[name], markersize=4, label=heading)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(compared)), [label.replace(": ", ":\n") for label in reversed(compared)], fontsize=7)
    axes.set_xlabel("top-1 minus vanilla's, points; paired by seed, 95 % interval", fontsize=8)
    axes.legend(fontsize=7, loc="best")
    figure.savefig(path, dpi=120)
