"""Comparison of SSIA with its control: the interval is that of a paired t-test, and none is made up."""

from __future__ import annotations

import subprocess
import sys

import pytest
from scipy.stats import t

from ssia_zoo.models.comparison import compare
from ssia_zoo.models.weight import PairedRun


def paired(*scores: tuple[float, float]) -> tuple[PairedRun, ...]:
    return tuple(PairedRun(seed=seed, ssia=ssia, vanilla=vanilla) for seed, (ssia, vanilla) in enumerate(scores))


def test_the_interval_is_that_of_a_paired_t_test() -> None:
    result = compare(paired((70.0, 69.0), (72.0, 70.5), (71.0, 71.5), (73.0, 70.0)))
    assert result.interval is not None
    assert result.spread is not None
    half = t.ppf(0.975, 3) * result.spread[2] / 2
    assert result.interval == pytest.approx((result.difference - half, result.difference + half))
    assert result.difference == pytest.approx(1.25)
    assert result.spread[2] == pytest.approx(1.4434, abs=1e-4)


@pytest.mark.parametrize(
    "scores",
    [((71.0, 70.0),), ((71.0, 70.0), (72.0, 70.0)), ((70.3, 70.2), (70.4, 70.3), (70.5, 70.4))],
    ids=["one seed", "two seeds", "equal differences"],
)
def test_without_three_seeds_that_differ_there_is_no_interval_and_no_claim(
    scores: tuple[tuple[float, float], ...],
) -> None:
    result = compare(paired(*scores))
    assert result.interval is None
    assert result.conclusion().endswith("No gain is claimed.")


def test_easy_data_are_named_even_where_the_interval_excludes_zero() -> None:
    result = compare(paired((99.2, 98.0), (99.2, 98.1), (99.1, 98.0)))
    assert result.interval is not None
    assert result.interval[0] > 0
    assert result.too_easy
    assert "these data leave little room for a gain" in result.conclusion()


def test_scipy_is_imported_only_for_an_interval() -> None:
    script = "import ssia_zoo.models.comparison, sys; assert 'scipy.stats' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
