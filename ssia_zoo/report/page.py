"""Render a report's page: one HTML file with its pictures inside, which loads nothing."""

from __future__ import annotations

import base64
import io
import math
from typing import Any

import PIL.Image
from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, *, package: str = "ssia_zoo.report", **values: Any) -> str:
    """Render a template of a package; values are escaped."""
    environment = Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(inline=inline, fraction=fraction, percent=percent, number=number, p_value=p_value)
    return environment.get_template(template).render(**values)


def inline(picture: bytes | PIL.Image.Image) -> str:
    """Return a picture as a data URL: PNG for the bytes of one, JPEG for an image."""
    if isinstance(picture, bytes):
        return f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def fraction(value: float, digits: int = 3) -> str:
    """Format a fraction; a dash for NaN, which means undefined."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def percent(value: float, digits: int = 1) -> str:
    """Format a fraction as a percentage."""
    return "–" if math.isnan(value) else f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%"


def number(value: int) -> str:
    """Format a number of images."""
    return f"{value:,}"


def p_value(value: float) -> str:
    """Format the p-value of a test."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
