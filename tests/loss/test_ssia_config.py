"""The choices of the SSIA loss: lambda's schedule, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ssia_zoo.errors import ConfigError
from ssia_zoo.loss.ssia import SSIAConfig, SSIALoss


@pytest.mark.covers("ssia.weight", "ssia.schedule", "ssia.warmup")
@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ({"weight": 0.7}, [0.7] * 5),
        ({"schedule": "warmup", "warmup": 0.5, "weight": 2.0}, [0.0, 1.0, 2.0, 2.0, 2.0]),
        ({"schedule": "warmup", "warmup": 0.0}, [1.0] * 5),
        ({"schedule": "warmup", "warmup": 1.0}, [0.0, 0.25, 0.5, 0.75, 1.0]),
        ({"schedule": "cosine", "warmup": 0.5, "weight": 2.0}, [0.0, 1.0, 2.0, 1.0, 0.0]),
        ({"schedule": "cosine", "warmup": 0.0}, [1.0, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2, 0.0]),
        ({"schedule": "cosine", "warmup": 1.0}, [0.0, 0.25, 0.5, 0.75, 1.0]),
    ],
)
def test_lambda_follows_its_schedule(choices: dict[str, Any], expected: list[float]) -> None:
    config = SSIAConfig(**choices)
    assert [config.weight_at(progress) for progress in (0, 0.25, 0.5, 0.75, 1)] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ({"pairs": "all"}, r"ssia\.pairs is 'all'; expected one of deepest, adjacent"),
        ({"pooling": "max"}, r"ssia\.pooling is 'max'; expected one of average, attention"),
        ({"schedule": "linear"}, r"ssia\.schedule is 'linear'; expected one of constant, warmup, cosine"),
        ({"semantic": -1.0}, r"ssia\.semantic is -1\.0"),
        ({"channel": math.inf}, r"ssia\.channel is inf"),
        ({"spatial": math.nan}, r"ssia\.spatial is nan"),
        ({"weight": -0.1}, r"ssia\.weight is -0\.1"),
        ({"labels": -1.0}, r"ssia\.labels is -1\.0"),
        ({"labels": 1.0, "semantic": 0.0, "channel": 1.0}, r"ssia\.labels is 1\.0, .* set ssia\.semantic above 0"),
        ({"labels": 1.0, "pooling": "none"}, r"ssia\.labels is 1\.0, .* ssia\.pooling to average or attention"),
        ({"handover": True}, r"ssia\.handover is set, but ssia\.labels is 0"),
        ({"supervisor": "past"}, r"ssia\.supervisor is 'past'; expected one of now, memory"),
        ({"top": True}, r"ssia\.top is set, but ssia\.supervisor is now"),
        ({"share": 0.0}, r"ssia\.share is 0\.0; expected a share above 0"),
        ({"share": 1.1}, r"ssia\.share is 1\.1"),
        ({"momentum": 1.0}, r"ssia\.momentum is 1\.0; expected 0 or more and below 1"),
        ({"semantic": 0.0}, r"no signal: .*ssia\.semantic, ssia\.channel, ssia\.spatial"),
        ({"temperature": 0.0}, r"ssia\.temperature is 0\.0"),
        ({"hidden": 0}, r"ssia\.hidden is 0"),
        ({"warmup": 1.5}, r"ssia\.warmup is 1\.5"),
    ],
)
def test_a_choice_out_of_range_is_named(choices: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        SSIAConfig(**choices)


@pytest.mark.parametrize(
    ("shapes", "classes", "choices", "expected"),
    [
        ([(4, 2, 2)], 3, {}, "at least 2 stages, .* got 1"),
        ([(4, 2, 2), (4, 1, 1)], 0, {}, "num_classes=0"),
        ([(4, 2, 2), (4, 0, 1)], 3, {}, r"stage 1 is \(4, 0, 1\)"),
        ([(4, 2), (4, 1, 1)], 3, {}, r"stage 0 is \(4, 2\)"),
        ([(4, 2, 2), (4, 1, 1)], 3, {"semantic": 0, "spatial": 1}, r"no pair has a spatial signal: .*ssia\.pairs"),
    ],
)
def test_a_network_that_the_loss_cannot_guide_is_refused(
    shapes: Any, classes: int, choices: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected):
        SSIALoss(shapes, classes, SSIAConfig(**choices))
