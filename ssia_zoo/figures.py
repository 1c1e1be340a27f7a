"""Make figures with matplotlib, which is installed by the extra `plots`."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from ssia_zoo.extras import require_packages

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def can_draw() -> bool:
    """Return whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def require_matplotlib() -> None:
    """Check that figures can be drawn, before the work that ends in one.

    Raises:
        ConfigError: If matplotlib is not installed.
    """
    require_packages("drawing", ["matplotlib"], "'ssia-zoo[plots]'")


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure that opens no window and draws texts literally (see `plain_figure`).

    Args:
        width: Inches.
        height: Inches.

    Raises:
        ConfigError: If matplotlib is not installed.
    """
    require_matplotlib()
    from ssia_zoo.plain_figure import PlainFigure  # imported late: training and the command line start faster

    return PlainFigure(figsize=(width, height), layout="constrained")


def class_label(name: str, index: int) -> str:
    """Return a class's name for a figure, or "class 3" if no font has all its characters.

    Args:
        name: The class.
        index: Its number.
    """
    from ssia_zoo.plain_figure import find_families, warn_of_missing_font

    if not find_families(name)[1]:
        return name
    warn_of_missing_font()
    return f"class {index}"
