"""Draw the figures of a report as PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ssia_zoo.evaluation.scores import Scores
from ssia_zoo.figures import class_label, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Record = Mapping[str, Any]
"""A line of a run's metrics.jsonl."""

MOST_DRAWN = 100
"""Classes of the largest confusion matrix that is drawn."""

_MOST_NUMBERED = 20
_NAME = 24
_BLUE, _ORANGE, _GREY = "#1f5fa8", "#c2570c", "#9aa0a6"


def short(name: str, length: int = _NAME) -> str:
    """Shorten a name for a figure."""
    return name if len(name) <= length else f"{name[: length - 1]}…"


def draw_confusion(matrix: npt.NDArray[np.int64], names: Sequence[str]) -> bytes:
    """Draw a confusion matrix, each row as shares of the label's images.

    Args:
        matrix: A row per label, a column per predicted class.
        names: The classes, at most `MOST_DRAWN`.
    """
    count = len(names)
    size = min(4.5 + 0.28 * count, 14.0)
    figure = new_figure(size, 0.85 * size)
    axes = figure.subplots()
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    drawn = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    font = max(4.0, min(9.0, 420 / count * size / 14))
    labels = [short(class_label(name, index)) for index, name in enumerate(names)]
    axes.set_xticks(range(count), labels, rotation=90, fontsize=font)
    axes.set_yticks(range(count), labels, fontsize=font)
    axes.set(xlabel="predicted", ylabel="label")
    if count <= _MOST_NUMBERED:
        for row, column in zip(*np.nonzero(matrix), strict=True):
            colour = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, matrix[row, column], ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(drawn, ax=axes, label="share of the label's images", shrink=0.6)
    return _png(figure)


def draw_calibration(scores: Scores) -> bytes:
    """Draw accuracy over predicted probability, and the number of images per bin."""
    figure = new_figure(5.6, 5.2)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    width = 1 / len(scores.bins)
    centers = (np.arange(len(scores.bins)) + 0.5) * width
    used = [(center, b) for center, b in zip(centers, scores.bins, strict=True) if b.images]
    x = [center for center, _ in used]
    accuracy, probability = [b.accuracy for _, b in used], [b.probability for _, b in used]
    upper.bar(x, accuracy, width * 0.94, color=_BLUE, label="accuracy")
    upper.scatter(probability, accuracy, color=_ORANGE, s=14, zorder=3, label="mean probability")
    upper.plot((0, 1), (0, 1), "--", color=_GREY, label="calibrated")
    upper.set(ylabel="accuracy", ylim=(0, 1), xlim=(0, 1))
    upper.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=8, frameon=False)
    lower.bar(x, [b.images for _, b in used], width * 0.94, color=_GREY)
    lower.set(xlabel="probability of the predicted class", ylabel="images")
    return _png(figure)


def draw_curves(records: Sequence[Record]) -> bytes:
    """Draw the training and evaluation loss and the evaluation top-1 of a run.

    Args:
        records: Lines of metrics.jsonl, of the kinds "train" and "eval".
    """
    train = [record for record in records if record.get("kind") == "train"]
    evaluated = [record for record in records if record.get("kind") == "eval"]
    figure = new_figure(9, 3.6)
    loss, top1 = figure.subplots(1, 2)
    loss.plot(*_series(train, "task_loss"), color=_GREY, label="training")
    loss.plot(*_series(evaluated, "loss"), color=_BLUE, marker=".", label="evaluation")
    top1.plot(*_series(evaluated, "top1"), color=_BLUE, marker=".", label="evaluation")
    loss.set(xlabel="epoch", ylabel="loss")
    top1.set(xlabel="epoch", ylabel="top-1, %")
    for axes in (loss, top1):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return _png(figure)


def draw_mistakes(mistakes: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw wrongly predicted images, each beside where the model looked, if that is known.

    Args:
        mistakes: At least one, with "picture" and "looked" (images), and the name, "…_index" and "…_probability" of
            "label" and "predicted".
    """
    columns = min(4, len(mistakes))
    rows = -(-len(mistakes) // columns)
    figure = new_figure(3.4 * columns, 2.2 * rows)
    cells = figure.subfigures(rows, columns, squeeze=False).flat
    for cell, mistake in zip(cells, mistakes, strict=False):
        pictures = [picture for picture in (mistake["picture"], mistake["looked"]) if picture is not None]
        for axes, picture in zip(cell.subplots(1, len(pictures), squeeze=False)[0], pictures, strict=True):
            axes.imshow(picture)
            axes.set_axis_off()
        label, predicted = (short(class_label(mistake[key], mistake[f"{key}_index"])) for key in ("label", "predicted"))
        probabilities = (mistake["label_probability"], mistake["predicted_probability"])
        cell.suptitle(f"label {label} {probabilities[0]:.1%}\npredicted {predicted} {probabilities[1]:.1%}", fontsize=8)
    return _png(figure)


def _series(records: Sequence[Record], key: str) -> tuple[list[float], list[float]]:
    points = [(record["epoch"], record[key]) for record in records if record.get(key) is not None]
    return [x for x, _ in points], [y for _, y in points]


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()
