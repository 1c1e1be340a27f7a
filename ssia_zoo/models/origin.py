"""Describe how weights were trained and chosen, in sentences for model cards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from ssia_zoo.models.metric_names import METRICS


def origin(base_model: str | None, settings: Mapping[str, Any]) -> str:
    """Describe what the training started from, and which part of it was trained."""
    if not base_model:
        return "Trained from scratch."
    if settings.get("probe"):
        return (
            f"A linear probe of `{base_model}`: only the classifier was fitted, by logistic regression on the features "
            "of the training images; all other weights are those of that model."
        )
    part = ""
    if settings.get("lora") is not None:
        part = f" with LoRA adapters of rank {settings['lora']}, which are merged into these weights"
    elif settings.get("freeze") == "head":
        part = "; only the classifier was trained"
    elif settings.get("freeze") is not None:
        part = f" with the stem and the first {settings['freeze']} stages frozen"
    base = f"`{base_model}`"
    if base_model.startswith("local-dir:"):  # its path means nothing on another machine
        base = f"the weights of a local folder, `{PurePath(base_model.removeprefix('local-dir:')).name}`"
    return f"Fine-tuned from {base}{part}."


def saved_weights(selection: Mapping[str, Any] | None, unfinished: str | None = None) -> str:
    """Describe which weights are saved, and what their score means if it decided on them."""
    if unfinished is not None:
        return f"weights after {unfinished}; the training had not ended, so the settings below give another model"
    if selection is None:
        return "weights after the last step"
    early = "stopped early, " * selection["stopped_early"]
    weights = f"weights of epoch {selection['best_epoch']}, the best"
    if selection["saved"] == "last":
        weights = f"weights after the last step; the best was epoch {selection['best_epoch']}"
    metric = METRICS[selection.get("metric", "top1")]
    return (
        f"{early}{weights} of {selection['evaluations']} evaluations by {metric}. These evaluations were on the images "
        "of the table, so the score above is biased upwards: measure it on images that were used neither for training "
        "nor for this choice"
    )
