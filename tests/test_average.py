"""The moving average of the weights as supervisor: its predictions are the target, without gradient."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.task import ClassificationTask
from torch import Tensor

from ssia_zoo.errors import ConfigError
from ssia_zoo.loss.memory import soft_cross_entropy
from ssia_zoo.loss.ssia import SSIAConfig
from ssia_zoo.models.features import forward_stages
from ssia_zoo.task import SSIATask

CLASSES = 5
FORM: dict[str, Any] = {"labels": 1.0, "handover": True, "supervisor": "average", "temperature": 1.0}


def make_model() -> Any:
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=CLASSES, drop_rate=0.3, drop_path_rate=0.3)


def make_task(**choices: Any) -> SSIATask:
    task = SSIATask(make_model(), SSIAConfig(**{**FORM, **choices}), input_size=(3, 32, 32))
    task.setup_ema(decay=0.5)
    return task


def make_batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    return images, torch.tensor([0, 1, 2, 3])


def train(task: Any, steps: int = 3) -> dict[str, Tensor]:
    optimizer = torch.optim.SGD(task.trainable_module.parameters(), lr=0.1)
    task.train()
    torch.manual_seed(5)  # for dropout
    for step in range(steps):
        optimizer.zero_grad()
        task(*make_batch(step))["loss"].backward()
        optimizer.step()
        task.update_ema()
    return dict(task.get_eval_model().state_dict())


@pytest.mark.covers("ssia.supervisor", "ssia.top", "ssia.share")
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_heads_and_top_learn_the_predictions_of_the_moving_average(temperature: float) -> None:
    task = make_task(share=0.8, top=True, temperature=temperature)
    train(task)
    task.eval().progress = 0.5
    images, target = make_batch(seed=9)
    module = task.trainable_module
    with torch.no_grad():
        result = task(images, target)
        average = task.get_eval_model(ema=True)(images)
        predicted = torch.softmax(average, 1)
        logits, features = forward_stages(module.student, images, module.indices)
        terms = module.projection(
            features, logits, lambda z: F.cross_entropy(z, target), supervisor=torch.softmax(average / temperature, 1)
        )
    assert not torch.allclose(predicted, torch.softmax(logits, 1), atol=1e-3), "another prediction than the current one"
    own, labels = 0.8 * 0.5, F.cross_entropy(logits, target)
    torch.testing.assert_close(result["semantic"], terms["semantic"])
    torch.testing.assert_close(result["task_loss"], (1 - own) * labels + own * soft_cross_entropy(logits, predicted))
    torch.testing.assert_close(result["ssia"], own * result["semantic"] + (1 - own) * result["labels"])


def test_the_average_predicts_in_eval_mode_and_is_not_changed_by_it() -> None:
    task = make_task()
    average = task.get_eval_model(ema=True)
    before = {name: value.clone() for name, value in average.state_dict().items()}
    task.train()
    images, target = make_batch()
    predicted = task._predict_by_average(images)
    task(images, target)["loss"].backward()
    assert torch.equal(task._predict_by_average(images), predicted), "no dropout"
    torch.testing.assert_close(task._predict_by_average(images[:1]), predicted[:1])  # no statistics of the batch
    assert all(parameter.grad is None for parameter in average.parameters())
    assert all(torch.equal(before[name], value) for name, value in average.state_dict().items())
    assert average.training


def test_lambda_0_trains_bit_for_bit_as_without_the_loss() -> None:
    expected = train(ClassificationTask(make_model(), verbose=False))
    actual = train(make_task(weight=0.0))
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


def test_a_missing_moving_average_is_named() -> None:
    task = SSIATask(make_model(), SSIAConfig(**FORM), input_size=(3, 32, 32))
    with pytest.raises(ConfigError, match=r"^`ssia.supervisor` is average, [^\n]*call task.setup_ema first$"):
        task(*make_batch())
