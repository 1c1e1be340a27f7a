"""Scores of answers: values known by hand, classes without images or predictions, and the confused pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ssia_zoo.evaluation.scores import compute_scores, confusion, most_confused
from tests.helpers.answers import made


def test_scores_are_those_computed_by_hand() -> None:
    scores = compute_scores(made([0, 0, 1, 1], [0, 1, 1, 1], probability=[0.9, 0.9, 0.6, 0.6]))
    assert (scores.images, scores.top1, scores.top5, scores.balanced_accuracy) == (4, 75, 100, 75)
    assert scores.macro_f1 == pytest.approx((2 / 3 + 0.8) / 2)
    assert scores.calibration_error == pytest.approx(0.5 * abs(0.5 - 0.9) + 0.5 * abs(1 - 0.6))
    assert scores.loss == pytest.approx(-np.log([0.9, 0.1, 0.6, 0.6]).mean())
    low, high = scores.top1_interval
    assert (low, high) == pytest.approx((30.06, 95.44), abs=0.01)  # Wilson
    assert sum(part.images for part in scores.bins) == 4
    first, second, third = scores.classes
    assert (first.name, first.images, first.predicted, first.precision, first.recall) == ("a", 2, 1, 1.0, 0.5)
    assert (second.precision, second.recall) == (pytest.approx(2 / 3), 1.0)
    assert (third.images, third.predicted) == (0, 0)
    assert all(math.isnan(value) for value in (third.precision, third.recall))


def test_a_class_without_images_lowers_no_mean() -> None:
    scores = compute_scores(made([0, 1], [0, 2]))
    assert scores.balanced_accuracy == 50
    assert scores.macro_f1 == 0.5
    assert scores.classes[2].precision == 0
    assert math.isnan(scores.classes[1].precision)


def test_images_of_one_class_have_scores() -> None:
    scores = compute_scores(made([1, 1], [1, 1], probability=[1.0, 1.0]))
    assert (scores.top1, scores.balanced_accuracy, scores.calibration_error) == (100, 100, 0)


def test_confusions_are_counted() -> None:
    answers = made([0, 0, 0, 1, 2, 2], [1, 1, 0, 1, 0, 2])
    assert confusion(answers).tolist() == [[1, 2, 0], [0, 1, 0], [1, 0, 1]]
    first, second = most_confused(answers, 5)
    assert (first.label, first.predicted, first.images, first.share) == ("a", "b", 2, pytest.approx(2 / 3))
    assert (second.label, second.predicted, second.images, second.share) == ("c", "a", 1, 0.5)
    assert most_confused(answers, 1) == [first]
    assert most_confused(made([0], [0]), 5) == []
