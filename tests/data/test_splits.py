"""Names of splits, and choices of rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssia_zoo.data.splits import (
    Mask,
    keep_one_of_each,
    names_test_split,
    split_in_name,
    split_of_name,
    stratified,
)


@given(st.lists(st.integers(0, 8), min_size=2, max_size=60), st.floats(0.05, 0.95))
def test_each_class_keeps_a_row_and_the_number_of_rows_stays_if_possible(labels: list[int], fraction: float) -> None:
    held = stratified(labels, round(len(labels) * fraction))
    kept = keep_one_of_each(labels, ~held)
    assert {labels[row] for row in np.flatnonzero(kept)} == set(labels)
    assert kept.sum() == max((~held).sum(), len(set(labels)))
    if {labels[row] for row in np.flatnonzero(~held)} == set(labels):
        assert (kept == ~held).all()


ROWS = st.lists(st.lists(st.integers(0, 5), max_size=3, unique=True).map(sorted), min_size=2, max_size=40)


@given(ROWS, st.floats(0.05, 0.95))
def test_each_class_of_lists_keeps_a_row_and_rows_are_exchanged(labels: list[list[int]], fraction: float) -> None:
    held = stratified(labels, round(len(labels) * fraction))
    assert held.sum() == round(len(labels) * fraction)
    kept = keep_one_of_each(labels, ~held)

    def classes(chosen: Mask) -> set[int]:
        return {number for row in np.flatnonzero(chosen).tolist() for number in labels[row]}

    everything = classes(np.ones(len(labels), dtype=np.bool_))
    assert classes(kept) == everything
    assert (~held).sum() <= kept.sum() <= max((~held).sum(), len(everything))
    if classes(~held) == everything:
        assert (kept == ~held).all()


def test_lists_are_divided_by_their_combinations() -> None:
    labels = [[0], [0, 1]] * 20
    held = stratified(labels, 10)
    assert [labels[row] for row in np.flatnonzero(held).tolist()].count([0, 1]) == 5


@pytest.mark.parametrize("name", ["train", "TRAINING", "Val", "dev", "test", "Testing"])
def test_words_for_splits(name: str) -> None:
    assert split_of_name(name) == split_in_name(name) is not None
    assert split_in_name(f"my_{name}_images") == split_of_name(name)


@pytest.mark.parametrize(
    ("name", "is_test"),
    [
        *(("test", True), ("TestSet", True), ("test_validated", True), ("evaluation", True), ("v2-test", True)),
        *(("validation", False), ("valid", False), ("dev", False), ("contest", False), ("fold3", False)),
    ],
)
def test_a_test_split_is_recognized_by_a_part_of_its_name(name: str, is_test: bool) -> None:
    assert names_test_split(name) is is_test


def test_other_words_are_not_splits() -> None:
    assert [split_in_name(name) for name in ("trainer", "contest", "value", "device", "train_or_test", "2021")] == [
        None
    ] * 6
