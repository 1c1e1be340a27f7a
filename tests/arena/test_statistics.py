"""Statistics against published examples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssia_zoo.arena.statistics import holm, over_images, p_value, pooled_spread, power_of, seeds_needed
from ssia_zoo.errors import ConfigError


def test_holm_adjusts_as_in_the_example_of_wikipedia() -> None:
    # https://en.wikipedia.org/wiki/Holm-Bonferroni_method: of these, the first and the last are rejected at 0.05
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_keeps_the_order_and_lies_between_no_correction_and_bonferronis(values: list[float]) -> None:
    adjusted = holm(values)
    for value, result in zip(values, adjusted, strict=True):
        assert value <= result <= min(1.0, len(values) * value)
    order = np.argsort(values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


def test_power_is_that_of_g_power_for_the_paired_t_test() -> None:
    # G*Power 3.1, matched pairs, two-tailed, alpha 0.05, power 0.8: effect 0.5 -> 34 pairs with power 0.8077775,
    # effect 0.8 -> 15, effect 0.2 -> 199
    assert seeds_needed(0.5, 1.0) == 34
    assert power_of(34, 0.5, 1.0) == pytest.approx(0.8077775, abs=1e-6)
    assert seeds_needed(0.8, 1.0) == 15
    assert seeds_needed(0.2, 1.0) == 199
    assert seeds_needed(-1.0, 2.0) == 34, "the sign does not matter"
    assert seeds_needed(0.001, 1.0) is None


def test_power_is_finite_grows_with_the_pairs_and_is_that_of_integration() -> None:
    for effect in (0.5, 2.0, 5.3, 8.3, 20.0):
        powers = [power_of(seeds, effect, 1.0) for seeds in range(2, 40)]
        assert np.isfinite(powers).all()
        assert (np.diff(powers) > -1e-9).all()
    assert power_of(2, 2.0, 0.24) == pytest.approx(0.645, abs=2e-3), "integrated numerically"


@pytest.mark.parametrize(("difference", "power"), [(0.0, 0.8), (1.0, 1.0), (1.0, 0.0)])
def test_numbers_out_of_range_are_refused(difference: float, power: float) -> None:
    with pytest.raises(ConfigError, match="expected"):
        seeds_needed(difference, 1.0, power)


def test_more_seeds_than_ten_thousand_are_not_named() -> None:
    assert (seeds_needed(0.0279, 1.0), seeds_needed(0.0285, 1.0)) == (None, 9666)


def test_the_p_value_is_that_of_students_sleep_data() -> None:
    # Student (1908), Biometrika 6: extra sleep with two drugs; t = 4.0621, 9 degrees of freedom, p = 0.002833
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    assert p_value(list(zip(second, first, strict=True))) == pytest.approx(0.002833, abs=1e-6)
    assert p_value([(1.0, 0.0), (2.0, 0.0)]) is None, "two seeds have no interval either"
    assert p_value([]) is None


def test_spreads_are_pooled_by_their_degrees_of_freedom() -> None:
    spread = pooled_spread([[0.0, 2.0], [1.0, 1.0, 4.0], [7.0]])  # squares 2 + 6, degrees 1 + 2
    assert spread is not None
    assert spread.degrees == 3
    assert spread.deviation == pytest.approx((8 / 3) ** 0.5)
    assert spread.low < spread.deviation < spread.high
    assert pooled_spread([[1.0], [2.0, 2.0]]) is None


def test_the_interval_over_images_is_of_the_mean_over_seeds() -> None:
    changes = [np.array([1.0, 0.0, 0.0, 0.0] * 50), np.array([1.0, -1.0, 0.0, 0.0] * 50)]
    low, high = over_images(changes)
    mean = 100 * np.mean(changes)
    assert low < mean < high
    wide = over_images([changes[1]])
    assert wide[1] - wide[0] > high - low, "more seeds, less noise"
