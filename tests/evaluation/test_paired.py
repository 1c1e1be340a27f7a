"""Two models on the same images: difference, interval, exact test, and answers that cannot be compared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ssia_zoo.errors import ClassesError, DataError, SSIAZooError
from ssia_zoo.evaluation.answers import Answers
from ssia_zoo.evaluation.paired import compare_answers, same_images
from ssia_zoo.report.comparison import verdict
from tests.helpers.answers import made


def test_the_difference_and_the_exact_test_are_those_computed_by_hand() -> None:
    labels = [0, 1] * 20
    a, b = list(labels), list(labels)
    a[0] = a[2] = a[4] = a[6] = a[8] = 2
    b[1] = 2
    b[10] = a[10] = 2
    result = compare_answers(made(labels, a), made(labels, b))
    assert (result.only_a, result.only_b, result.both, result.neither) == (1, 5, 33, 1)
    assert result.difference == pytest.approx(10) == result.b_top1 - result.a_top1
    assert result.p_value == pytest.approx(2 * (1 + 6) / 2**6)
    low, high = result.interval
    assert low <= 0 < high
    assert not result.shown
    assert [(row.name, row.images) for row in result.classes] == [("a", 20), ("b", 20)]
    up, down = result.largest_changes(5)
    assert [(row.name, round(row.change, 3)) for row in (*up, *down)] == [("a", 0.25), ("b", -0.05)]


def test_the_interval_is_the_same_in_each_run_and_excludes_zero_for_a_clear_difference() -> None:
    labels = [0, 1] * 50
    better, worse = made(labels, labels), made(labels, [0] * 30 + labels[30:])
    first, second = (compare_answers(worse, better) for _ in range(2))
    assert first == second
    assert first.shown
    assert verdict(first).startswith("B is better on these images: the interval excludes zero, and p < 0.05")
    assert compare_answers(better, worse).interval[1] < 0


def test_four_images_right_in_one_model_only_show_no_difference() -> None:
    labels = [0, 1] * 180
    result = compare_answers(made(labels, [1, 0, 1, 0, *labels[4:]]), made(labels, labels))
    assert result.excludes_zero
    assert result.p_value == pytest.approx(0.125)
    assert not result.shown
    assert verdict(result) == "no difference shown: McNemar's p is 0.05 or more"


def test_equal_answers_show_no_difference() -> None:
    result = compare_answers(made([0, 1], [0, 0]), made([0, 1], [0, 0]))
    assert (result.difference, result.interval, result.p_value, result.shown) == (0, (0, 0), 1, False)


def test_classes_in_another_order_are_matched_by_name() -> None:
    a = made([0, 1, 2], [0, 1, 1], names=("x", "y", "z"))
    b = made([2, 1, 0], [2, 1, 0], names=("z", "y", "x"), digest="1")
    same = same_images(a, b)
    assert same.class_names == a.class_names
    np.testing.assert_array_equal(same.labels, a.labels)
    assert same.correct.all()


@pytest.mark.parametrize(
    ("other", "kind", "message"),
    [
        (made([0, 1], [0, 1], names=("a", "b", "d")), ClassesError, "^A has the class 'c', which B lacks"),
        (made([0, 1], [0, 1], digest="1"), DataError, "^A and B are answers to different images"),
        (made([0], [0]), DataError, "^A has answers to 2 images and B to 1"),
        (made([0, 2], [0, 1]), DataError, "^A and B differ at 1.png and 1.png, labelled 'b' and 'c'"),
        (replace(made([0, 1], [0, 1]), images=("0.png", "x.png")), DataError, "^A and B differ at 1.png and x.png"),
    ],
)
def test_answers_to_other_images_or_classes_are_refused(other: Answers, kind: type[SSIAZooError], message: str) -> None:
    with pytest.raises(kind, match=message):
        same_images(made([0, 1], [0, 1]), other)


def test_one_image_is_too_few_to_compare() -> None:
    with pytest.raises(DataError, match="needs at least two images"):
        compare_answers(made([0], [0]), made([0], [1]))
