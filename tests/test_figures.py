"""Names of users are drawn as they are written, in a font that has their characters, or as numbers."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from PIL import Image

from ssia_zoo import plain_figure
from ssia_zoo.figures import class_label, new_figure
from ssia_zoo.report.figures import draw_confusion, draw_mistakes

MATRIX = np.array([[3, 1], [0, 4]])


@pytest.fixture(autouse=True)
def no_fallbacks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start as in a new process, on a machine whose only font is matplotlib's own."""
    monkeypatch.setattr(plain_figure, "FALLBACKS", ())
    monkeypatch.setattr(fontManager, "ttflist", list(fontManager.ttflist))
    for cached in (plain_figure._installed_fallbacks, plain_figure.warn_of_missing_font):
        cached.cache_clear()
    yield
    for cached in (plain_figure._installed_fallbacks, plain_figure.warn_of_missing_font):
        cached.cache_clear()


def install_font(monkeypatch: pytest.MonkeyPatch, path: Path, family: str, characters: str) -> None:
    """Make a font in which each of these characters is a black square, and let matplotlib find it."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for point in ((0, 1000), (1000, 1000), (1000, 0)):
        pen.lineTo(point)
    pen.closePath()
    names = [".notdef", *(f"uni{ord(character):04X}" for character in characters)]
    font = FontBuilder(1000)
    font.setupGlyphOrder(names)
    font.setupCharacterMap(dict(zip(map(ord, characters), names[1:], strict=True)))
    font.setupGlyf(dict.fromkeys(names, pen.glyph()))
    font.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    font.setupHorizontalHeader(ascent=1000, descent=0)
    font.setupNameTable({"familyName": family, "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(path)
    monkeypatch.setattr(plain_figure, "FALLBACKS", (family,))
    monkeypatch.setattr(plain_figure, "findSystemFonts", lambda: [str(path)])


def png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def title(figure: Figure, name: str) -> None:
    figure.suptitle(name)


def title_of_a_part(figure: Figure, name: str) -> None:
    figure.subfigures(1, 1).suptitle(name)


def ticks(figure: Figure, name: str) -> None:
    figure.subplots().set_xticks([0], [name])


def legend(figure: Figure, name: str) -> None:
    axes = figure.subplots()
    axes.plot([0, 1], label=name)
    axes.legend()


PLACES = [title, title_of_a_part, ticks, legend]


@pytest.mark.parametrize("name", ["$5_$10", "cost $5 and $10", r"$\frac", "$a$", r"\$5"])
@pytest.mark.parametrize("place", PLACES)
def test_a_dollar_is_drawn_as_a_dollar(place: Callable[[Figure, str], None], name: str) -> None:
    ours = new_figure(4, 2)
    place(ours, name)
    with matplotlib.rc_context({"text.parse_math": False}):
        literal = Figure(figsize=(4, 2), layout="constrained")
        place(literal, name)
    assert png(ours) == png(literal)


@pytest.mark.parametrize("place", PLACES)
def test_characters_without_a_font_are_one_line_of_the_log(
    place: Callable[[Figure, str], None], caplog: pytest.LogCaptureFixture
) -> None:
    with warnings.catch_warnings(), caplog.at_level(logging.DEBUG, logger="ssia_zoo"):
        warnings.simplefilter("error")
        for _ in range(2):
            figure = new_figure(4, 2)
            place(figure, "猫.png")
            png(figure)
    (line,) = caplog.messages
    assert "no known font" in line


def test_a_file_name_that_is_no_text_is_drawn_with_question_marks() -> None:
    ours, expected = new_figure(4, 2), new_figure(4, 2)
    title(ours, "a\udc80.png")
    title(expected, "a?.png")
    assert png(ours) == png(expected)


def test_classes_whose_names_cannot_be_drawn_are_numbered(caplog: pytest.LogCaptureFixture) -> None:
    assert class_label("größe…", 7) == "größe…"
    assert draw_confusion(MATRIX, ["猫", "b"]) == draw_confusion(MATRIX, ["class 0", "b"])
    mistake = {"picture": Image.new("RGB", (8, 8)), "looked": None, "label_probability": 0.1}
    mistake |= {"predicted_probability": 0.9, "label_index": 3, "predicted_index": 1, "predicted": "b"}
    assert draw_mistakes([mistake | {"label": "猫"}]) == draw_mistakes([mistake | {"label": "class 3"}])
    assert len(caplog.messages) == 1


def test_an_installed_font_is_used_for_what_the_default_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    empty = draw_confusion(MATRIX, ["猫", "b"])
    assert caplog.messages
    caplog.clear()
    plain_figure._installed_fallbacks.cache_clear()
    plain_figure.warn_of_missing_font.cache_clear()
    install_font(monkeypatch, tmp_path / "font.ttf", "Only Cats", "猫")
    assert class_label("猫", 0) == "猫"
    assert draw_confusion(MATRIX, ["猫", "b"]) != empty
    figure = new_figure(2, 1)
    figure.text(0.5, 0.5, "猫", fontsize=40)
    with Image.open(io.BytesIO(png(figure))) as image:
        assert image.convert("L").histogram()[0] > 1000, "the square is black"
    assert not caplog.messages
    assert class_label("犬", 1) == "class 1"
