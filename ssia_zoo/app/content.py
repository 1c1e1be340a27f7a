"""What the page shows, as HTML."""

from __future__ import annotations

import logging
from functools import partial
from importlib.resources import files
from pathlib import Path

from ssia_zoo.app.answers import answer, open_picture, share
from ssia_zoo.app.catalog import Catalog
from ssia_zoo.app.config import AppConfig
from ssia_zoo.app.zoo import draw_intervals, short_dataset, zoo_rows
from ssia_zoo.errors import SSIAZooError, one_line, with_flags
from ssia_zoo.report.page import render as render_template

_log = logging.getLogger(__name__)

NONE = "none"
"""Choice of no second model."""

ALL = "all"
"""Choice of every data set."""

render = partial(render_template, package="ssia_zoo.app")


def css() -> str:
    """Return the style sheet of the page."""
    return files("ssia_zoo.app").joinpath("templates/page.css").read_text(encoding="utf-8")


def show_answers(catalog: Catalog, config: AppConfig, path: str | None, model: str | None, second: str | None) -> str:
    """Show the answers of one or two models to a picture, or the reason why there are none.

    Args:
        catalog: The models.
        config: Limits of the picture.
        path: The picture's file; None if none was given.
        model: Name of a model.
        second: Name of another, or `NONE`.
    """
    if path is None:
        return _message("Drop a picture, or take one of the examples.")
    try:
        picture = open_picture(Path(path), config)
        names = dict.fromkeys(name for name in (model, second) if name and name != NONE)
        if not names:
            return _message("Choose a model.")
        answers = [answer(name, catalog.load(name), picture, config.max_pixels) for name in names]
        return render("answers.html", answers=answers, share=share)
    except SSIAZooError as error:
        return _message(with_flags(one_line(error)), error=True)
    except Exception as error:
        _log.exception("the page cannot show an answer")
        return _message(f"This failed: {type(error).__name__}; the terminal shows why.", error=True)


def show_weights(pattern: str, dataset: str, only_shown: bool) -> str:
    """Show the table of published weights.

    Args:
        pattern: Part of the names, or a pattern with * and ?.
        dataset: Name of the data, or `ALL`.
        only_shown: Leave out weights whose interval includes zero or is missing.
    """
    rows = zoo_rows(pattern, None if dataset == ALL else dataset, only_shown)
    placed = list(zip(rows, draw_intervals(rows), strict=True))
    return render("zoo.html", rows=placed, short_dataset=short_dataset)


def show_report(index: int, name: str) -> str:
    """Show a report, which the server has at reports/INDEX."""
    return render("report.html", index=index, name=name)


def _message(text: str, *, error: bool = False) -> str:
    return render("message.html", text=text[:1].upper() + text[1:], error=error)
