"""The data, the verdict and the quoted seeds of the demo."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest

from ssia_zoo.cli.demo import verdict, write_wrong_labels
from ssia_zoo.data import digits


def test_a_third_of_the_training_labels_is_wrong_and_reproducible(tmp_path: Path) -> None:
    right = digits()
    for name in ("one", "other"):
        assert write_wrong_labels(tmp_path / name, right["train"], right["test"], seed=3) == 479
    one, other = (datasets.load_dataset(str(tmp_path / name), cache_dir=str(tmp_path)) for name in ("one", "other"))
    assert one["train"]["label"] == other["train"]["label"]
    changed = np.asarray(one["train"]["label"]) != np.asarray(right["train"]["label"])
    assert changed.sum() == 479
    assert set(np.asarray(one["train"]["label"])[changed]) == set(range(10))
    assert one["test"]["label"] == right["test"]["label"]
    assert one["train"].features["label"].names == right["train"].features["label"].names
    assert np.array_equal(np.asarray(one["train"][0]["image"]), np.asarray(right["train"][0]["image"]))


def test_another_seed_changes_other_labels(tmp_path: Path) -> None:
    right = digits()
    for seed in (0, 1):
        write_wrong_labels(tmp_path / str(seed), right["train"], right["test"], seed=seed)
    zero, one = (datasets.load_dataset(str(tmp_path / str(s)), cache_dir=str(tmp_path))["train"] for s in (0, 1))
    assert zero["label"] != one["label"]


@pytest.mark.parametrize(
    ("won", "lost", "expected", "shown"),
    [
        (12, 1, "ahead of vanilla by 11.00 points on 100 test images", True),
        (1, 12, "behind vanilla by 11.00 points on 100 test images", True),
        (5, 2, "ahead of vanilla by 3.00 points on 100 test images", False),
        (2, 5, "behind vanilla by 3.00 points on 100 test images", False),
        (3, 3, "level with vanilla on 100 test images", False),
        (0, 0, "level with vanilla on 100 test images", False),
    ],
)
def test_the_verdict_states_the_direction_and_whether_it_is_noise(
    won: int, lost: int, expected: str, shown: bool
) -> None:
    vanilla, ssia = np.ones(100, dtype=np.bool_), np.ones(100, dtype=np.bool_)
    vanilla[:won] = False
    ssia[won : won + lost] = False
    text = verdict(vanilla, ssia)
    assert expected in text
    assert ("no difference shown" in text) is not shown
