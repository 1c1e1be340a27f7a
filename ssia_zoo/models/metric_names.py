"""Names of an evaluation's metrics for logs, cards and tables."""

from __future__ import annotations

from collections.abc import Mapping

METRICS = {
    "top1": "top-1",
    "top5": "top-5",
    "map": "mAP",
    "micro_f1": "micro F1",
    "macro_f1": "macro F1",
    "sample_f1": "sample F1",
    "threshold": "threshold",
    "loss": "loss",
}
"""Name of each metric. All are percentages but the last two."""

_DECIMALS = {"threshold": 2, "loss": 4}


def main_metric(metrics: Mapping[str, float]) -> str:
    """Return the key of the metric to compare models by: "map" for several labels an image, else "top1"."""
    return "map" if "map" in metrics else "top1"


def describe(metrics: Mapping[str, float], *keys: str) -> str:
    """Return metrics as text, such as "top-1 81.25 %, loss 0.6021"; all that are known if no keys are given."""
    chosen = keys or [key for key in METRICS if key in metrics]
    return ", ".join(f"{METRICS[key]} {_number(key, metrics[key])}{'' if key in _DECIMALS else ' %'}" for key in chosen)


def table(metrics: Mapping[str, float]) -> tuple[list[str], list[str]]:
    """Return the headings and the cells of a table of the metrics that are known."""
    keys = [key for key in METRICS if key in metrics]
    headings = [METRICS[key] + ("" if key in _DECIMALS else ", %") for key in keys]
    return headings, [_number(key, metrics[key]) for key in keys]


def _number(key: str, value: float) -> str:
    return f"{value:.{_DECIMALS.get(key, 2)}f}"
