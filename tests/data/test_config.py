"""Settings of a data set: invalid values are refused in one line that names the field."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ssia_zoo.data import DataConfig
from ssia_zoo.errors import ConfigError


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"holdout": 1.0}, "`holdout` is 1.0; expected a number less than 1"),
        ({"batch_size": 0}, "`batch_size` is 0; expected a number greater than 0"),
        ({"scale": (0.5, 0.1)}, "`scale` is (0.5, 0.1); expected two numbers in ascending order"),
        ({"scale": (0.5, 1.1)}, "`scale` is 1.1; expected a number less than or equal to 1"),
        ({"scale": (0.5,)}, "`scale` is (0.5,); expected more values"),
        ({"ratio": (2.0, 0.5)}, "`ratio` is (2.0, 0.5); expected two numbers in ascending order"),
        ({"interpolation": "cubic"}, "`interpolation` is 'cubic'; expected one of nearest, bilinear"),
        ({"crop_mode": "left"}, "`crop_mode` is 'left'; expected one of center, squash, border"),
        ({"max_corrupt": 2}, "`max_corrupt` is 2; expected a number less than or equal to 1"),
        (
            {"image_size": 0},
            "`image_size` is 0; expected one number of pixels greater than 0, or two: height and width",
        ),
        ({"image_size": (8, 8, 8)}, "`image_size` is (8, 8, 8); expected one number of pixels"),
        ({"image_size": "large"}, "`image_size` is 'large'; expected one number of pixels"),
        ({"crop_padding": 8, "image_size": (8, 16)}, "`crop_padding` is 8; expected less than `image_size` (8, 16)"),
        ({"num_classes": 1}, "`num_classes` is 1; expected a number greater than or equal to 2"),
        ({"color_jitter": float("nan")}, "`color_jitter` is nan; expected a finite number"),
        ({"workers": "many"}, "`workers` is 'many'; expected a valid integer"),
        ({"random_erase_mode": "black"}, "`random_erase_mode` is 'black'; expected 'const', 'rand' or 'pixel'"),
        ({"batchsize": 3}, "'batchsize' is not a setting; did you mean batch_size"),
        ({"streaming": True, "holdout": 0.1}, "`holdout` cannot split a stream"),
        ({"eval_split": "test", "holdout": 0.1}, "and `eval_split` on test; leave out one of them"),
        ({"streaming": True, "check_duplicates": True}, "`check_duplicates` compares all images"),
        ({"crop_padding": 8, "image_size": 8}, "`crop_padding` is 8; expected less than `image_size` 8"),
        ({"aug_repeats": 3, "batch_size": 8}, "`aug_repeats` is 3; expected a divisor of `batch_size` 8"),
    ],
)
def test_an_invalid_setting_is_one_line_that_names_the_field(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        DataConfig("digits", **setting)
    assert "\n" not in str(caught.value)


def test_a_size_is_one_number_or_height_and_width() -> None:
    for given, stored in ((8, 8), ((8, 16), (8, 16)), ([8, 16], (8, 16)), ((8, 8), 8), ((8,), 8), (None, None)):
        assert DataConfig("digits", image_size=given).image_size == stored


def test_a_missing_data_set_is_named() -> None:
    with pytest.raises(ConfigError, match="`dataset` is missing"):
        DataConfig()


def test_a_misspelt_name_is_reported_before_the_setting_that_is_then_missing() -> None:
    with pytest.raises(ConfigError, match="'datset' is not a setting; did you mean dataset"):
        DataConfig(datset="digits")
    with pytest.raises(ConfigError, match="`batch_size` is 0"):
        DataConfig(batch_size=0)
