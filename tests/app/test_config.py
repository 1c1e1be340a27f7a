"""Settings of the page."""

from __future__ import annotations

import pytest

from ssia_zoo.app import AppConfig
from ssia_zoo.errors import ConfigError


@pytest.mark.parametrize(
    ("setting", "value"),
    [("port", -1), ("port", 65536), ("host", ""), ("max_megabytes", 0), ("max_megabytes", 1001), ("max_pixels", 1023)],
)
def test_a_setting_out_of_range_is_refused_by_name(setting: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"`{setting}` is "):
        AppConfig(**{setting: value})


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("x.org", False),
    ],
)
def test_other_addresses_than_loopback_are_recognized(host: str, loopback: bool) -> None:
    assert AppConfig(host=host).loopback == loopback
