"""A matplotlib figure that draws users' names as they are written: no mathtext, and any installed font for a character.

It imports matplotlib, so only `ssia_zoo.figures` imports it, when something is drawn.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, findSystemFonts, fontManager, get_font
from matplotlib.text import Text

_log = logging.getLogger(__name__)

FALLBACKS = (
    *(f"Noto Sans CJK {region}" for region in ("SC", "JP", "KR", "TC", "HK")),
    *(f"Noto Sans {script}" for script in ("SC", "JP", "KR", "TC", "Thai", "Devanagari", "Bengali", "Tamil")),
    *("Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback", "NanumGothic"),
    *("PingFang SC", "Hiragino Sans GB", "Hiragino Sans", "Apple SD Gothic Neo", "Arial Unicode MS"),  # macOS
    *("Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "Leelawadee UI", "Nirmala UI"),  # Windows
)
"""Font families to use, if installed, for characters that matplotlib's default font lacks."""


class PlainFigure(Figure):
    """A figure whose texts are drawn literally: a `$` is a `$`, and characters come from any suitable font."""

    def savefig(self, *args: Any, **options: Any) -> None:
        """Save the figure, as matplotlib does; log one line if no font has some characters."""
        texts = self.findobj(Text)
        families, lacking = find_families("".join(text.get_text() for text in texts))
        for text in texts:
            text.set_text(text.get_text().encode(errors="replace").decode())  # for bytes of file names that are no text
            if "$" in text.get_text():  # not all texts: the user's matplotlibrc may draw numbers in mathtext
                text.set_parse_math(False)
            text.set_fontfamily(families)
        if lacking:
            warn_of_missing_font()
        with _without_font_warnings():
            super().savefig(*args, **options)


def find_families(characters: Iterable[str]) -> tuple[list[str], set[str]]:
    """Return the font families to draw these characters with, and the characters that none of them has."""
    families = list(matplotlib.rcParams["font.family"])
    lacking = {character for character in characters if character != "\n"}
    lacking -= _drawn_by(lacking, families)
    if lacking:
        for family in _installed_fallbacks():
            if found := _drawn_by(lacking, [family]):
                families.append(family)
                lacking -= found
    return families, lacking


@cache
def warn_of_missing_font() -> None:
    """Log, once in a process, that names cannot be drawn: a report has several figures of the same names."""
    _log.warning(
        "figures show class numbers or boxes in place of names whose characters no known font has; install one that "
        "has them, such as Noto Sans CJK"
    )


def _drawn_by(characters: Iterable[str], families: Iterable[str]) -> set[str]:
    with _without_font_warnings():
        fonts = [get_font(findfont(FontProperties(family=[family]))) for family in families]
    return {character for character in characters if any(font.get_char_index(ord(character)) for font in fonts)}


@cache
def _installed_fallbacks() -> tuple[str, ...]:
    known = {font.fname for font in fontManager.ttflist}
    for path in set(findSystemFonts()) - known:  # matplotlib keeps a list of the fonts that its first start found
        with suppress(Exception):  # as matplotlib: a damaged font file is one font less
            fontManager.addfont(path)
    names = {font.name for font in fontManager.ttflist}
    return tuple(family for family in FALLBACKS if family in names)


@contextmanager
def _without_font_warnings() -> Iterator[None]:
    """Silence matplotlib about characters that no font has and about weights that a fallback font lacks."""
    logger = logging.getLogger("matplotlib.font_manager")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from", UserWarning)
            yield
    finally:
        logger.setLevel(level)
