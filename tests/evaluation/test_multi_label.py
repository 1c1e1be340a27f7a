"""Metrics of several labels an image: as scikit-learn computes them, with a threshold chosen on the images."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score
from timm.task import ClassificationEvaluator

from ssia_zoo.data import load_eval_data
from ssia_zoo.evaluation.multi_label import MultiLabelEvaluator, best_threshold, build_evaluator
from tests.helpers.data_folders import labelled, parquet

CPU = torch.device("cpu")


def random_batch(seed: int = 0, images: int = 40, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    targets = (torch.rand(images, classes, generator=generator) < 0.3).float()
    logits = 2 * targets - 1 + torch.randn(images, classes, generator=generator)
    targets[:, -1] = 0  # a class without an image
    return logits, targets


def test_the_metrics_are_those_of_scikit_learn() -> None:
    logits, targets = random_batch()
    evaluator = MultiLabelEvaluator(CPU, threshold=0.4)
    for part in range(0, 40, 16):
        evaluator.update(logits[part : part + 16], targets[part : part + 16])
    metrics = evaluator.compute()
    predicted = logits.sigmoid() >= 0.4
    for average in ("micro", "macro"):
        expected = 100 * f1_score(targets, predicted, average=average, zero_division=0)
        assert metrics[f"{average}_f1"] == pytest.approx(expected)
    present = [average_precision_score(targets[:, c], logits[:, c]) for c in range(4)]
    assert metrics["map"] == pytest.approx(100 * sum(present) / 4), "over the classes that have an image"
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets).item()
    assert metrics["loss"] == pytest.approx(expected)
    assert metrics["threshold"] == 0.4


@pytest.mark.parametrize("seed", [0, 1])
def test_no_threshold_has_a_higher_micro_f1_than_the_chosen_one(seed: int) -> None:
    logits, targets = random_batch(seed, images=8, classes=3)
    chosen = best_threshold(logits, targets > 0)

    def score(threshold: float) -> float:
        predicted = logits.sigmoid() >= threshold
        return float(f1_score(targets, predicted, average="micro", zero_division=0))

    scores = {number / 100: score(number / 100) for number in range(1, 100)}
    best = max(scores.values())
    assert scores[chosen] == best
    assert all(abs(other - 0.5) >= abs(chosen - 0.5) for other, value in scores.items() if value == best)


def test_the_threshold_is_chosen_if_none_is_given() -> None:
    logits, targets = torch.tensor([[-1.0, -3.0], [-3.0, -1.0]]), torch.eye(2)
    evaluator = MultiLabelEvaluator(CPU, threshold=None)
    evaluator.update(logits, targets)
    assert evaluator.compute()["micro_f1"] == 100
    assert torch.tensor(-3.0).sigmoid() < evaluator.threshold <= torch.tensor(-1.0).sigmoid()
    fixed = MultiLabelEvaluator(CPU)
    fixed.update(logits, targets)
    assert fixed.compute() == {**evaluator.compute(), "threshold": 0.5, **dict.fromkeys(F1, 0.0)}


F1 = ("micro_f1", "macro_f1", "sample_f1")


def test_classes_that_the_model_lacks_do_not_count() -> None:
    logits, targets = random_batch()
    known, padded = MultiLabelEvaluator(CPU), MultiLabelEvaluator(CPU)
    known.update(logits, targets)
    missing = torch.full((40, 1), -torch.inf)
    padded.update(torch.cat([logits, missing], 1), torch.cat([targets, torch.zeros(40, 1)], 1))
    assert padded.compute() == known.compute()


def test_no_images_give_zeros() -> None:
    assert MultiLabelEvaluator(CPU, threshold=None).compute()["map"] == 0


@pytest.mark.usefixtures("datasets_cache")
@pytest.mark.parametrize(("split", "chosen"), [("validation", True), ("test", False)])
def test_nothing_is_chosen_on_a_test_split(tmp_path: Path, split: str, chosen: bool) -> None:
    feature = datasets.List(datasets.ClassLabel(names=["a", "b"]))
    data = load_eval_data(parquet(tmp_path / "d", **{split: labelled([[0, 1], [1]], feature)}))
    evaluator = build_evaluator(data, CPU)
    evaluator.update(torch.tensor([[-1.0, -1.0], [-9.0, -1.0]]), torch.tensor([[1.0, 1.0], [0.0, 1.0]]))
    assert (evaluator.compute()["threshold"] < 0.5) == chosen
    single = load_eval_data(parquet(tmp_path / "e", **{split: labelled([0, 1])}))
    assert type(build_evaluator(single, CPU)) is ClassificationEvaluator
