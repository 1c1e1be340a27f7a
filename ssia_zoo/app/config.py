"""Settings of the page."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from ssia_zoo.data.config import MAX_PIXELS
from ssia_zoo.validation import STRICT, one_line_errors

LIFETIME = 3600
"""Seconds after which a picture that a person gave is removed."""


@one_line_errors()
@dataclass(frozen=True, config=STRICT)
class AppConfig:
    """What the page offers, and where it listens.

    Raises:
        ConfigError: If a value is out of range.
    """

    models: tuple[str, ...] = ()
    """models to offer beside the published weights, and folders with a report"""
    port: Annotated[int, Field(ge=0, le=65535)] = 7860
    """0 takes a free port"""
    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    max_megabytes: Annotated[float, Field(gt=0, le=1000)] = 20.0
    """largest file"""
    max_pixels: Annotated[int, Field(ge=1024, le=MAX_PIXELS)] = 50_000_000
    """largest picture; larger JPEGs are decoded at a lower resolution"""
    zoo: bool = True
    """whether the published weights are offered and listed"""
    others: bool = True
    """whether any other model may be asked for by its name; on loopback only"""

    @property
    def max_bytes(self) -> int:
        """Largest file; a megabyte is 2**20 bytes, as in Gradio's messages."""
        return int(self.max_megabytes * 2**20)

    @property
    def loopback(self) -> bool:
        """Whether the page can be opened from this machine only."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
