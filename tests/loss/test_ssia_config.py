"""Settings of the SSIA loss: the schedule of lambda, and invalid values."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from torch import nn

from ssia_zoo.errors import ConfigError
from ssia_zoo.loss.ssia import SSIAConfig, SSIALoss


@pytest.mark.covers("ssia.weight", "ssia.schedule", "ssia.warmup")
@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ({"weight": 0.7}, [0.7] * 5),
        ({"schedule": "warmup", "warmup": 0.5, "weight": 2.0}, [0.0, 1.0, 2.0, 2.0, 2.0]),
        ({"schedule": "warmup", "warmup": 0.0, "weight": 1.0}, [1.0] * 5),
        ({"schedule": "warmup", "warmup": 1.0, "weight": 1.0}, [0.0, 0.25, 0.5, 0.75, 1.0]),
        ({"schedule": "cosine", "warmup": 0.5, "weight": 2.0}, [0.0, 1.0, 2.0, 1.0, 0.0]),
        ({"schedule": "cosine", "warmup": 0.0, "weight": 1.0}, [1.0, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2, 0.0]),
        ({"schedule": "cosine", "warmup": 1.0, "weight": 1.0}, [0.0, 0.25, 0.5, 0.75, 1.0]),
    ],
)
def test_lambda_follows_its_schedule(choices: dict[str, Any], expected: list[float]) -> None:
    config = SSIAConfig(**choices)
    assert [config.lambda_at(progress) for progress in (0, 0.25, 0.5, 0.75, 1)] == pytest.approx(expected)


@pytest.mark.covers("ssia.weight")
def test_lambda_that_is_not_set_depends_on_labels_and_on_the_networks_norms() -> None:
    batch_norm, layer_norm = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)), nn.LayerNorm(2)
    assert SSIAConfig().for_model(batch_norm).weight == 2.0
    assert SSIAConfig().for_model(layer_norm).weight == 0.5
    assert SSIAConfig(labels=0).for_model(batch_norm).weight == SSIAConfig(labels=0).for_model(layer_norm).weight == 1.0
    assert SSIAConfig(weight=0.0).for_model(batch_norm).weight == 0.0
    with pytest.raises(ConfigError, match=r"`ssia\.weight` is None, which depends on the network"):
        SSIAConfig().lambda_at(0.5)


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ({"pairs": "all"}, "`ssia.pairs` is 'all'; expected 'deepest', 'adjacent' or 'upper'"),
        ({"pooling": "max"}, "`ssia.pooling` is 'max'; expected 'average', 'attention' or 'none'"),
        ({"schedule": "linear"}, "`ssia.schedule` is 'linear'; expected 'constant', 'warmup' or 'cosine'"),
        ({"semantic": -1.0}, "`ssia.semantic` is -1.0; expected a number greater than or equal to 0"),
        ({"channel": math.inf}, "`ssia.channel` is inf; expected a finite number"),
        ({"spatial": math.nan}, "`ssia.spatial` is nan"),
        ({"weight": -0.1}, "`ssia.weight` is -0.1"),
        ({"labels": -1.0}, "`ssia.labels` is -1.0"),
        ({"labels": 1.0, "semantic": 0.0, "channel": 1.0}, "`ssia.labels` is 1.0, but only pooled semantic heads"),
        ({"labels": 1.0, "pooling": "none"}, "set `ssia.labels` to 0, or `ssia.semantic` above 0 and `ssia.pooling`"),
        ({"semantic": 0.0, "spatial": 1.0}, "set `ssia.labels` to 0"),
        ({"supervisor": "past"}, "`ssia.supervisor` is 'past'; expected 'now', 'memory' or 'average'"),
        ({"top": True}, "`ssia.top` requires another supervisor, but `ssia.supervisor` is now"),
        ({"share": 0.0}, "`ssia.share` is 0.0; expected a number greater than 0"),
        ({"share": 1.1}, "`ssia.share` is 1.1"),
        ({"momentum": 1.0}, "`ssia.momentum` is 1.0; expected a number less than 1"),
        ({"semantic": 0.0, "labels": 0.0}, "no signal is set; set at least one of `ssia.semantic`"),
        ({"temperature": 0.0}, "`ssia.temperature` is 0.0"),
        ({"hidden": 0}, "`ssia.hidden` is 0"),
        ({"warmup": 1.5}, "`ssia.warmup` is 1.5"),
        ({"temperatur": 1.0}, "'ssia.temperatur' is not a setting; did you mean temperature?"),
    ],
)
def test_a_setting_out_of_range_is_named(choices: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(expected)) as caught:
        SSIAConfig(**choices)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("shapes", "classes", "choices", "expected"),
    [
        ([(4, 2, 2)], 3, {}, "at least 2 stages; got 1"),
        ([(4, 2, 2), (4, 1, 1)], 0, {}, "num_classes=0"),
        ([(4, 2, 2), (4, 0, 1)], 3, {}, r"stage 1 is \(4, 0, 1\)"),
        ([(4, 2), (4, 1, 1)], 3, {}, r"stage 0 is \(4, 2\)"),
        (
            [(4, 2, 2), (4, 1, 1)],
            3,
            {"labels": 0, "semantic": 0, "spatial": 1},
            "no pair has a spatial signal: .*`ssia.pairs`",
        ),
    ],
)
def test_a_network_without_a_signal_is_refused(
    shapes: Any, classes: int, choices: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected):
        SSIALoss(shapes, classes, SSIAConfig(**choices))
