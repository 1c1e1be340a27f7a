"""Compare two classifiers on the same images: paired difference, interval, exact test, and changes by class."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ssia_zoo.errors import ClassesError, DataError
from ssia_zoo.evaluation.answers import Answers

RESAMPLES = 9999
SEED = 0
"""Of the bootstrap, whose interval is thus the same in each run."""

_BATCH = 10_000_000  # numbers that the bootstrap draws at a time


@dataclass(frozen=True)
class ClassChange:
    """Recall of one class in both models, as fractions."""

    name: str
    images: int
    a: float
    b: float

    @property
    def change(self) -> float:
        """Recall of B minus recall of A."""
        return self.b - self.a


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """Top-1 of two models on the same images; accuracies in percent, differences (B minus A) in points."""

    images: int
    a_top1: float
    b_top1: float
    difference: float
    interval: tuple[float, float]
    """95 % percentile interval of the bootstrap over images."""
    both: int
    """Images that both models predict right."""
    only_a: int
    only_b: int
    neither: int
    p_value: float
    """McNemar's exact test, two-sided."""
    classes: tuple[ClassChange, ...]
    """The classes that have images."""

    @property
    def shown(self) -> bool:
        """Whether the interval excludes zero and McNemar's p is below 0.05; with few images the former is no proof."""
        return self.excludes_zero and self.p_value < 0.05

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval excludes zero."""
        return self.interval[0] > 0 or self.interval[1] < 0

    def largest_changes(self, most: int) -> tuple[list[ClassChange], list[ClassChange]]:
        """Return the classes with the largest gain and with the largest loss in B, at most `most` each."""
        ordered = sorted(self.classes, key=lambda row: row.change)
        return [row for row in ordered[::-1] if row.change > 0][:most], [row for row in ordered if row.change < 0][
            :most
        ]


def same_images(a: Answers, b: Answers, names: tuple[str, str] = ("A", "B")) -> Answers:
    """Check that answers are to the same images; return B's with its classes in A's order.

    Args:
        a: Answers of the first model.
        b: Answers of the second model.
        names: Of both, for messages.

    Raises:
        ClassesError: If the classes have other names.
        DataError: If the images or their labels differ.
    """
    if missing := sorted(set(a.class_names) ^ set(b.class_names)):
        has, lacks = names if missing[0] in a.class_names else names[::-1]
        raise ClassesError(
            f"{has} has the class {missing[0]!r}, which {lacks} lacks ({len(a.class_names)} and {len(b.class_names)} "
            "classes); compare answers to data with the same class names"
        )
    if a.class_names != b.class_names:
        order = np.array([a.class_names.index(name) for name in b.class_names])
        b = replace(b, class_names=a.class_names, labels=order[b.labels], predicted=order[b.predicted])
    elif a.digest != b.digest:
        raise DataError(f"{names[0]} and {names[1]} are answers to different images; compare answers to the same split")
    if len(a) != len(b):
        raise DataError(
            f"{names[0]} has answers to {len(a)} images and {names[1]} to {len(b)}; compare answers to the same images"
        )
    differ = (a.rows != b.rows) | (a.labels != b.labels) | (np.array(a.images) != np.array(b.images))
    if differ.any():
        first = int(differ.argmax())
        raise DataError(
            f"{names[0]} and {names[1]} differ at {a.images[first]} and {b.images[first]}, labelled "
            f"{a.class_names[a.labels[first]]!r} and {a.class_names[b.labels[first]]!r}; compare answers to the same "
            "images"
        )
    return b


def compare_answers(a: Answers, b: Answers) -> PairedDifference:
    """Compare two models' answers to the same images, as `same_images` returns them.

    Raises:
        DataError: If there is one image, which leaves nothing to resample.
    """
    if len(a) < 2:
        raise DataError("a comparison needs at least two images; the answers are to one")
    from scipy.stats import binomtest  # takes a second to import

    right_a, right_b = a.correct, b.correct
    change = 100 * (right_b.astype(np.float64) - right_a)
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    return PairedDifference(
        images=len(a),
        a_top1=100 * float(right_a.mean()),
        b_top1=100 * float(right_b.mean()),
        difference=float(change.mean()),
        interval=image_interval(change),
        both=int((right_a & right_b).sum()),
        only_a=only_a,
        only_b=only_b,
        neither=int((~right_a & ~right_b).sum()),
        p_value=float(binomtest(only_b, only_a + only_b).pvalue) if only_a + only_b else 1.0,
        classes=_class_changes(a, b),
    )


def image_interval(change: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % percentile interval of a mean over images, by the bootstrap."""
    from scipy.stats import bootstrap  # takes a second to import

    resampled = bootstrap(
        (change,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=max(1, _BATCH // len(change)),
        method="percentile",
        random_state=np.random.default_rng(SEED),
    )
    low, high = resampled.confidence_interval
    return float(low), float(high)


def _class_changes(a: Answers, b: Answers) -> tuple[ClassChange, ...]:
    from sklearn.metrics import recall_score

    present, images = np.unique(a.labels, return_counts=True)
    recall_a, recall_b = (
        recall_score(answers.labels, answers.predicted, labels=present, average=None, zero_division=0)
        for answers in (a, b)
    )
    return tuple(
        ClassChange(a.class_names[label], *values)
        for label, *values in zip(present.tolist(), images.tolist(), recall_a.tolist(), recall_b.tolist(), strict=True)
    )
