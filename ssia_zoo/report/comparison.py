"""Compare two models, or their stored answers, and write the report of their difference."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssia_zoo.data import DataConfig, load_eval_data
from ssia_zoo.data.encoded import split_digest
from ssia_zoo.data.samples import RowReader
from ssia_zoo.errors import ClassesError, DataError
from ssia_zoo.evaluation.answers import FILE, Answers, Integers, collect_answers, read_answers
from ssia_zoo.evaluation.paired import RESAMPLES, SEED, PairedDifference, compare_answers, same_images
from ssia_zoo.evaluation.validate import Evaluation, prepare_evaluation
from ssia_zoo.figures import require_matplotlib
from ssia_zoo.hub.files import CONFIG
from ssia_zoo.models.loading import load_model
from ssia_zoo.report.folder import check_folder, replace_report
from ssia_zoo.report.page import render
from ssia_zoo.report.pictures import Maps, Pictures

NAMES = ("comparison.html", "comparison.json", "per_class.csv", "differences.csv")
"""The files of a comparison."""

_MOST = 12
"""Pictures of each kind."""

_CHANGE = ("name", "images", "a", "b", "change")
_DIFFERENCE = ("row", "image", "label", "a", "b", "a_probability", "b_probability")


@dataclass(frozen=True)
class Compared:
    """A model's answers; and the model with its images, if it was run."""

    name: str
    answers: Answers
    evaluation: Evaluation | None


def are_answers(name: str) -> bool:
    """Return whether a name is that of stored answers: a report's folder or its per_image.parquet, and no model."""
    path = Path(name)
    return path.suffix == ".parquet" or ((path / FILE).is_file() and not (path / CONFIG).is_file())


def open_answers(name: str, config: DataConfig | None) -> Compared:
    """Read stored answers, or run a model; its classes must match those of the data by name.

    Args:
        name: A report's folder or per_image.parquet, or a model as in `load_model`.
        config: The data, needed to run a model.

    Raises:
        SSIAZooError: If the answers cannot be read, or the model or the data cannot be used.
    """
    if are_answers(name):
        return Compared(name, read_answers(Path(name)), None)
    if config is None:
        raise DataError(f"{name} holds no answers; set `dataset` to run it as a model")
    model = load_model(name)
    try:
        evaluation = prepare_evaluation(model, config, by_position=False)
    except ClassesError as error:
        raise ClassesError(f"{name}: {error}") from error
    answers = collect_answers(evaluation.model, evaluation.loader, outputs=evaluation.outputs)
    return Compared(name, answers, evaluation)


def compare(first: str, second: str, config: DataConfig | None = None, folder: Path | None = None) -> PairedDifference:
    """Compare two models, or their stored answers, on the same images.

    Args:
        first: A report's folder or per_image.parquet, or a model as in `load_model`.
        second: Likewise.
        config: The data, to run models and to draw images; None if both are stored answers.
        folder: A new or empty folder for the report, or one with an earlier comparison, which is replaced; none if
            None.

    Raises:
        SSIAZooError: If the images or the classes differ, or anything cannot be read, used or written.
    """
    if folder is not None:
        require_matplotlib()
        check_folder(folder, NAMES)
    a, b = open_answers(first, config), open_answers(second, config)
    b = Compared(b.name, same_images(a.answers, b.answers, (first, second)), b.evaluation)
    result = compare_answers(a.answers, b.answers)
    if folder is not None:
        images = None if config is None else _images(config, a, b)
        write_comparison(result, a, b, folder, images=images, about=_about(config, a, b))
    return result


def verdict(result: PairedDifference) -> str:
    """Return what the interval and the exact test show, in one line."""
    if not result.excludes_zero:
        return "no difference shown: the interval includes zero"
    if not result.shown:
        return "no difference shown: McNemar's p is 0.05 or more"
    better = "B" if result.difference > 0 else "A"
    return f"{better} is better on these images: the interval excludes zero, and p < 0.05"


def _about(config: DataConfig | None, *compared: Compared) -> str:
    """Name the data of the models that were run."""
    splits = {model.evaluation.data.eval_name for model in compared if model.evaluation is not None}
    return "" if config is None else " of ".join([*splits, config.dataset])


def _images(config: DataConfig, a: Compared, b: Compared) -> RowReader:
    """Return the reader of the images to draw; check that stored answers are to them."""
    for compared in (a, b):
        if compared.evaluation is not None:
            reader: RowReader = compared.evaluation.loader.dataset.reader
            return reader
    data = load_eval_data(config)
    if split_digest(data.eval, data.image_column, data.label_column) != a.answers.digest:
        raise DataError(
            f"the answers are not to {data.eval_name} of {config.dataset}; set `dataset` and `eval_split` to their data"
        )
    return RowReader(data.eval, data.image_column, data.label_column, config.max_pixels)


def write_comparison(
    result: PairedDifference,
    a: Compared,
    b: Compared,
    folder: Path,
    *,
    images: RowReader | None = None,
    about: str = "",
) -> None:
    """Write the report of a comparison into a folder.

    Args:
        result: From `compare_answers`.
        a: The first model's answers.
        b: The second model's answers, as `same_images` returns them.
        folder: A new or empty folder, or one with an earlier comparison, which is replaced.
        images: Reads the images, to draw where the models differ.
        about: Name of the data.

    Raises:
        ConfigError: If the folder holds other files, or cannot be written.
    """
    check_folder(folder, NAMES)
    right_a, right_b = a.answers.correct, b.answers.correct
    gained = _clearest(right_b & ~right_a, b.answers, a.answers)
    lost = _clearest(right_a & ~right_b, a.answers, b.answers)
    cards = [_cards(chosen, a, b, images) for chosen in (gained, lost)]
    page = render(
        "comparison.html",
        title="Comparison of two models",
        about=about,
        names=(a.name, b.name),
        result=result,
        verdict=verdict(result),
        resamples=RESAMPLES,
        seed=SEED,
        groups=[("Right in B only", cards[0]), ("Right in A only", cards[1])],
        maps=any(looked is not None for group in cards for card in group for looked in card["looked"]),
        no_pictures="none" if images is not None else "No pictures: the comparison was made without the data.",
        classes=sorted(result.classes, key=lambda row: -abs(row.change)),
    )
    document = {"a": a.name, "b": b.name, "about": about, **asdict(result)}
    document |= {"verdict": verdict(result), "resamples": RESAMPLES, "seed": SEED}
    with replace_report(folder, NAMES) as stage:
        changes = [asdict(row) | {"change": row.change} for row in result.classes]
        _write_table(stage / "per_class.csv", _CHANGE, changes)
        _write_table(stage / "differences.csv", _DIFFERENCE, _differences(a.answers, b.answers))
        (stage / "comparison.json").write_text(json.dumps(document) + "\n", encoding="utf-8")
        (stage / "comparison.html").write_text(page, encoding="utf-8")


def _clearest(chosen: Any, right: Answers, wrong: Answers) -> Integers:
    """Return the chosen images whose label's probability differs most, at most `_MOST`."""
    found = np.flatnonzero(chosen)
    gap = right.label_probability[found] - wrong.label_probability[found]
    return found[np.argsort(-gap, kind="stable")][:_MOST]


def _cards(chosen: Integers, a: Compared, b: Compared, images: RowReader | None) -> list[dict[str, Any]]:
    if images is None:
        return []
    pictures = Pictures(images)
    maps = [None if compared.evaluation is None else Maps(compared.evaluation) for compared in (a, b)]
    cards = []
    for i in chosen.tolist():
        row = int(a.answers.rows[i])
        looked = [
            None if found is None else found.draw(row, int(compared.answers.predicted[i]))
            for found, compared in zip(maps, (a, b), strict=True)
        ]
        cards.append({"picture": pictures.draw(row), "looked": looked, **_described(i, a.answers, b.answers)})
    return cards


def _described(i: int, a: Answers, b: Answers) -> dict[str, Any]:
    names = a.class_names
    return {
        "row": int(a.rows[i]),
        "image": a.images[i],
        "label": names[a.labels[i]],
        "a": names[a.predicted[i]],
        "b": names[b.predicted[i]],
        "a_probability": float(a.predicted_probability[i]),
        "b_probability": float(b.predicted_probability[i]),
    }


def _differences(a: Answers, b: Answers) -> list[dict[str, Any]]:
    return [_described(i, a, b) for i in np.flatnonzero(a.predicted != b.predicted).tolist()]


def _write_table(path: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
