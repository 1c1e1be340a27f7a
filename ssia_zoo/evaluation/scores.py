"""Compute the scores of a classifier from its answers, with scikit-learn and SciPy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ssia_zoo.evaluation.answers import Answers, Integers

BINS = 15
"""Bins of the calibration error, as in Guo et al. 2017."""


@dataclass(frozen=True)
class ClassScore:
    """Scores of one class, as fractions; NaN where undefined: recall without images, precision without predictions."""

    name: str
    images: int
    predicted: int
    """Number of images that are predicted as this class."""
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class CalibrationBin:
    """Images whose predicted probability is in one range; the means are NaN without images."""

    images: int
    probability: float
    """Mean probability of the predicted class."""
    accuracy: float
    """Fraction of correct predictions."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of a classifier on a split; accuracies in percent, the others as fractions."""

    images: int
    unreadable: int
    top1: float
    top1_interval: tuple[float, float]
    """95 % interval of top-1 (Wilson), for the number of images."""
    top5: float
    loss: float
    balanced_accuracy: float
    """Mean recall of the classes that have images."""
    macro_f1: float
    """Mean F1 of the classes that have images."""
    calibration_error: float
    bins: tuple[CalibrationBin, ...]
    classes: tuple[ClassScore, ...]


def compute_scores(answers: Answers) -> Scores:
    """Compute all scores of the answers."""
    from scipy.stats import binomtest  # takes a second to import
    from sklearn.metrics import f1_score, recall_score  # likewise

    labels, predicted = answers.labels, answers.predicted
    over_present: dict[str, Any] = {"labels": np.unique(labels), "average": "macro", "zero_division": 0}
    right, count = int(answers.correct.sum()), len(answers)
    interval = binomtest(right, count).proportion_ci(method="wilson")
    bins = calibration_bins(answers)
    return Scores(
        images=count,
        unreadable=answers.unreadable,
        top1=100 * right / count,
        top1_interval=(100 * float(interval.low), 100 * float(interval.high)),
        top5=100 * int(answers.in_top5.sum()) / count,
        loss=float(answers.loss.mean(dtype=np.float64)),
        balanced_accuracy=100 * float(recall_score(labels, predicted, **over_present)),
        macro_f1=float(f1_score(labels, predicted, **over_present)),
        calibration_error=sum(b.images * abs(b.accuracy - b.probability) for b in bins if b.images) / count,
        bins=bins,
        classes=_class_scores(answers),
    )


def _class_scores(answers: Answers) -> tuple[ClassScore, ...]:
    from sklearn.metrics import precision_recall_fscore_support

    count = len(answers.class_names)
    precision, recall, f1, images = precision_recall_fscore_support(
        answers.labels, answers.predicted, labels=np.arange(count), zero_division=math.nan
    )
    predicted = np.bincount(answers.predicted, minlength=count)
    columns = (column.tolist() for column in (images, predicted, precision, recall, f1))
    return tuple(ClassScore(*values) for values in zip(answers.class_names, *columns, strict=True))


def calibration_bins(answers: Answers, bins: int = BINS) -> tuple[CalibrationBin, ...]:
    """Compare predicted probability and accuracy in bins of equal width.

    The expected calibration error is the mean of |accuracy - probability| over bins, weighted by their images: Guo et
    al., "On Calibration of Modern Neural Networks", arXiv 1706.04599, equations 2 to 5.
    """
    from scipy.stats import binned_statistic

    probability = answers.predicted_probability.astype(np.float64)
    values = [probability, answers.correct.astype(np.float64)]
    means, _, number = binned_statistic(probability, values, "mean", bins=bins, range=(0, 1))
    images = np.bincount(number - 1, minlength=bins)
    return tuple(CalibrationBin(*row) for row in zip(images.tolist(), *means.tolist(), strict=True))


def confusion(answers: Answers) -> npt.NDArray[np.int64]:
    """Return the confusion matrix: a row per label, a column per predicted class, numbers of images."""
    from sklearn.metrics import confusion_matrix

    matrix: Integers = confusion_matrix(answers.labels, answers.predicted, labels=np.arange(len(answers.class_names)))
    return matrix


@dataclass(frozen=True)
class Confused:
    """Images of one class that are predicted as another."""

    label: str
    predicted: str
    images: int
    share: float
    """Of the images of `label`."""


def most_confused(answers: Answers, most: int) -> list[Confused]:
    """Return the pairs of label and wrong prediction with the most images, at most `most`."""
    wrong = ~answers.correct
    pairs, counts = np.unique(np.stack([answers.labels[wrong], answers.predicted[wrong]]), axis=1, return_counts=True)
    support = np.bincount(answers.labels, minlength=len(answers.class_names))
    names = answers.class_names
    order = np.argsort(-counts, kind="stable")[:most]
    return [
        Confused(names[label], names[predicted], int(counts[i]), float(counts[i] / support[label]))
        for i, (label, predicted) in zip(order, pairs[:, order].T, strict=True)
    ]
