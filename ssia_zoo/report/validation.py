"""Write the report of a model on a data set: page, figures, and tables of scores and answers."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ssia_zoo.data import DataConfig
from ssia_zoo.evaluation.answers import FILE, Answers, collect_answers, write_answers
from ssia_zoo.evaluation.scores import ClassScore, Scores, compute_scores, confusion, most_confused
from ssia_zoo.evaluation.validate import prepare_evaluation
from ssia_zoo.figures import require_matplotlib
from ssia_zoo.models.features import TimmModel
from ssia_zoo.report.figures import MOST_DRAWN, Record, draw_calibration, draw_confusion, draw_curves, draw_mistakes
from ssia_zoo.report.folder import check_folder, replace_report
from ssia_zoo.report.page import render
from ssia_zoo.report.pictures import Mistake, worst_mistakes

NAMES = (
    "report.html",
    "report.json",
    "per_class.csv",
    FILE,
    "confusion.png",
    "calibration.png",
    "curves.png",
    "mistakes.png",
)
"""The files of a report."""

_MOST_PAIRS = 20
_MOST_IN_JSON = 1000


def report_model(
    model: TimmModel, config: DataConfig, folder: Path, *, title: str, curves: Sequence[Record] | None = None
) -> Scores:
    """Evaluate a model in float32 and write its report into a folder.

    Args:
        model: A timm classifier.
        config: The data; see `prepare_evaluation`.
        folder: A new or empty folder, or one with an earlier report, which is replaced.
        title: Title of the page.
        curves: Lines of the metrics.jsonl of the model's training, to draw its curves.

    Raises:
        ConfigError: If the folder holds other files or cannot be written, or matplotlib is not installed.
        SSIAZooError: As `prepare_evaluation` and `collect_answers`.
    """
    check_report(folder)
    evaluation = prepare_evaluation(model, config)
    answers = collect_answers(evaluation.model, evaluation.loader, outputs=evaluation.outputs)
    about = f"{evaluation.data.eval_name} of {config.dataset}; input {evaluation.preprocessing}"
    mistakes = worst_mistakes(answers, evaluation)
    return write_report(answers, folder, title=title, about=about, mistakes=mistakes, curves=curves)


def check_report(folder: Path) -> None:
    """Check, before any work, that a report can be drawn and written into a folder.

    Raises:
        ConfigError: If not; the message says why.
    """
    require_matplotlib()
    check_folder(folder, NAMES)


def write_report(
    answers: Answers,
    folder: Path,
    *,
    title: str,
    about: str = "",
    mistakes: Sequence[Mistake] = (),
    curves: Sequence[Record] | None = None,
) -> Scores:
    """Write the report of a model's answers into a folder.

    Args:
        answers: From `collect_answers`.
        folder: A new or empty folder, or one with an earlier report, which is replaced.
        title: Title of the page.
        about: Data and preprocessing, in one line below the title.
        mistakes: Pictures, from `worst_mistakes`.
        curves: Lines of the metrics.jsonl of the model's training, to draw its curves.

    Raises:
        ConfigError: If the folder holds other files or cannot be written, or matplotlib is not installed.
    """
    check_report(folder)
    scores = compute_scores(answers)
    matrix = confusion(answers) if len(answers.class_names) <= _MOST_IN_JSON else None
    figures = {"calibration.png": draw_calibration(scores)}
    if matrix is not None and len(matrix) <= MOST_DRAWN:
        figures["confusion.png"] = draw_confusion(matrix, answers.class_names)
    if curves:
        figures["curves.png"] = draw_curves(curves)
    described = [_described(mistake, answers) for mistake in mistakes]
    if described:
        figures["mistakes.png"] = draw_mistakes(described)
    confused = most_confused(answers, _MOST_PAIRS + 1)
    page = render(
        "validation.html",
        title=title,
        about=about,
        scores=scores,
        wrong=int((~answers.correct).sum()),
        empty=[row.name for row in scores.classes if not row.images],
        classes=sorted(scores.classes, key=_by_f1),
        mistakes=described,
        confused=confused[:_MOST_PAIRS],
        more_confused=len(confused) > _MOST_PAIRS,
        matrix=figures.get("confusion.png"),
        calibration=figures["calibration.png"],
        curves=figures.get("curves.png"),
    )
    document = {
        "title": title,
        "about": about,
        **asdict(scores),
        "confusion_matrix": None if matrix is None else matrix.tolist(),
    }
    with replace_report(folder, NAMES) as stage:
        for name, content in figures.items():
            (stage / name).write_bytes(content)
        write_answers(answers, stage / FILE)
        _write_classes(scores.classes, stage / "per_class.csv")
        (stage / "report.json").write_text(json.dumps(_without_nan(document), allow_nan=False) + "\n", encoding="utf-8")
        (stage / "report.html").write_text(page, encoding="utf-8")
    return scores


def _described(mistake: Mistake, answers: Answers) -> dict[str, Any]:
    i = mistake.answer
    return {
        "picture": mistake.picture,
        "looked": mistake.looked,
        "image": answers.images[i],
        "label": answers.class_names[answers.labels[i]],
        "predicted": answers.class_names[answers.predicted[i]],
        "label_index": int(answers.labels[i]),
        "predicted_index": int(answers.predicted[i]),
        "label_probability": float(answers.label_probability[i]),
        "predicted_probability": float(answers.predicted_probability[i]),
        "loss": float(answers.loss[i]),
    }


def _by_f1(row: ClassScore) -> tuple[bool, float]:
    return (not row.images, row.f1 if row.images else 0.0)  # classes without images come last


def _write_classes(classes: Sequence[ClassScore], path: Path) -> None:
    names = [field.name for field in fields(ClassScore)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["class", *names[1:]])
        for row in classes:
            values = [getattr(row, name) for name in names]
            writer.writerow(["" if isinstance(value, float) and math.isnan(value) else value for value in values])


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return [_without_nan(item) for item in value] if isinstance(value, list | tuple) else value
