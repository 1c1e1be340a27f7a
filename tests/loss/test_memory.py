"""The memory of earlier predictions: its averages, the values it skips, and its use as a target."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from ssia_zoo.errors import ConfigError
from ssia_zoo.loss.memory import PredictionMemory, at_temperature_1, or_present, soft_cross_entropy
from ssia_zoo.loss.ssia import SSIAConfig, SSIALoss
from ssia_zoo.task import SSIATask

CLASSES, IMAGES = 5, 12
SHAPES = [(4, 6, 5), (5, 3, 2)]
FORM: dict[str, Any] = {"labels": 1.0, "handover": True, "supervisor": "memory", "temperature": 1.0}


def random_logits(batch: int, seed: int) -> Tensor:
    return 3 * torch.randn(batch, CLASSES, generator=torch.Generator().manual_seed(seed))


def make_task(**choices: Any) -> SSIATask:
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=CLASSES)
    return SSIATask(model, SSIAConfig(**{**FORM, **choices}), images=IMAGES, input_size=(3, 32, 32))


def make_batch(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(4, 3, 32, 32, generator=generator)
    return images, torch.tensor([0, 1, 2, 3]), torch.tensor([7, 0, 11, 4])


def test_the_average_starts_with_the_first_prediction() -> None:
    memory = PredictionMemory(IMAGES, CLASSES, momentum=0.75)
    first, second, third = (random_logits(2, seed) for seed in range(3))
    rows = torch.tensor([3, 8])
    assert memory.read(rows).eq(0).all()
    for logits in (first, second, third):
        memory.update(rows, logits)
    p = [torch.softmax(logits, 1) for logits in (first, second, third)]
    expected = 0.75 * (0.75 * p[0] + 0.25 * p[1]) + 0.25 * p[2]
    torch.testing.assert_close(memory.read(rows), expected, atol=2e-3, rtol=0)
    torch.testing.assert_close(memory.read(rows).sum(1), torch.ones(2))
    others = torch.tensor([n for n in range(IMAGES) if n not in (3, 8)])
    assert memory.read(others).eq(0).all()


def test_without_momentum_it_is_the_last_prediction() -> None:
    memory = PredictionMemory(IMAGES, CLASSES, momentum=0.0)
    for seed in range(3):
        memory.update(torch.tensor([5]), random_logits(1, seed))
    torch.testing.assert_close(memory.read(torch.tensor([5])), torch.softmax(random_logits(1, 2), 1), atol=1e-3, rtol=0)


def test_a_prediction_that_is_not_finite_does_not_change_the_memory() -> None:
    memory = PredictionMemory(IMAGES, CLASSES, momentum=0.5)
    rows = torch.tensor([1, 2])
    memory.update(rows, random_logits(2, 0))
    before = memory.read(rows)
    memory.update(rows, torch.full((2, CLASSES), float("nan")))
    assert torch.equal(memory.read(rows), before)


def test_of_a_row_that_occurs_several_times_the_last_prediction_is_used() -> None:
    memory = PredictionMemory(IMAGES, CLASSES, momentum=0.0)
    logits = random_logits(4, 0)
    memory.update(torch.tensor([5, 1, 5, 2]), logits)
    expected = torch.softmax(logits[[2, 1, 3]], 1)
    torch.testing.assert_close(memory.read(torch.tensor([5, 1, 2])), expected, atol=1e-3, rtol=0)


def test_images_without_a_memory_use_the_current_prediction_without_gradient() -> None:
    logits = random_logits(2, 0).requires_grad_()
    remembered = torch.stack([torch.zeros(CLASSES), torch.full((CLASSES,), 0.2)])
    filled = or_present(remembered, logits)
    assert torch.equal(filled[0], torch.softmax(logits[0], 0))
    assert torch.equal(filled[1], remembered[1])
    assert not filled.requires_grad


@pytest.mark.parametrize("classes", [10, 1000])
def test_the_same_predictions_give_the_same_target_now_and_later(classes: int) -> None:
    """With many classes, a floor under small probabilities would hide the sure prediction at a high temperature."""
    logits = torch.randn(2, classes, generator=torch.Generator().manual_seed(0))
    logits[:, 3] += 20
    expected = torch.log_softmax(logits / 3, 1)
    loss = SSIALoss(SHAPES, classes, SSIAConfig(supervisor="memory", temperature=3.0))
    memory = PredictionMemory(2, classes, 0.0, temperature=3.0)
    rows = torch.tensor([0, 1])
    torch.testing.assert_close(loss._target(logits, memory.read(rows)), expected)  # without a memory of the image
    memory.update(rows, logits)
    torch.testing.assert_close(loss._target(-logits, memory.read(rows)).exp(), expected.exp(), rtol=0.01, atol=1e-5)
    torch.testing.assert_close(at_temperature_1(memory.read(rows), 3.0), torch.softmax(logits, 1), rtol=0.01, atol=1e-5)


def test_a_memory_of_other_images_is_refused() -> None:
    state = PredictionMemory(IMAGES + 1, CLASSES, 0.7).state_dict()
    with pytest.raises(ValueError, match=r"\(13, 5\) images and classes; expected \(12, 5\)"):
        PredictionMemory(IMAGES, CLASSES, 0.7).load_state_dict(state)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_heads_learn_the_memory_instead_of_the_current_prediction(temperature: float) -> None:
    torch.manual_seed(0)
    loss = SSIALoss(SHAPES, CLASSES, SSIAConfig(hidden=6, labels=0, supervisor="memory", temperature=temperature))
    features = [torch.randn(4, *shape) for shape in SHAPES]
    remembered = torch.softmax(random_logits(4, 1) / temperature, 1)
    terms = loss(features, random_logits(4, 2), supervisor=remembered)
    (prediction,) = loss._predict_classes(features)
    wanted = F.kl_div(torch.log_softmax(prediction / temperature, 1), remembered, reduction="batchmean")
    torch.testing.assert_close(terms["semantic"], temperature**2 * wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.covers("ssia.share", "ssia.top")
def test_share_weights_the_memory_in_heads_and_top() -> None:
    task = make_task(share=0.8, top=True)
    images, target, indices = make_batch()
    with torch.no_grad():
        task(images, target, indices)
        task.eval()  # of the same batch, other logits
        remembered = task.memory.read(indices)  # type: ignore[union-attr]
        task.progress = 0.5
        result = task(images, target, indices)
    own = 0.8 * 0.5
    labels = F.cross_entropy(result["output"], target)
    of_memory = soft_cross_entropy(result["output"], remembered)
    torch.testing.assert_close(result["task_loss"], (1 - own) * labels + own * of_memory)
    torch.testing.assert_close(result["ssia"], own * result["semantic"] + (1 - own) * result["labels"])


def test_in_eval_mode_the_memory_is_not_updated() -> None:
    task = make_task()
    with torch.no_grad():
        task(*make_batch())
        before = task.memory.table.clone()  # type: ignore[union-attr]
        task.eval()(*make_batch(seed=1))
    assert torch.equal(task.memory.table, before)  # type: ignore[union-attr]


def test_without_top_the_final_logits_learn_only_the_labels() -> None:
    task = make_task()
    images, target, indices = make_batch()
    task.progress = 1.0
    with torch.no_grad():
        task(images, target, indices)
        result = task(images, target, indices)
    torch.testing.assert_close(result["task_loss"], F.cross_entropy(result["output"], target))


@pytest.mark.covers("ssia.momentum", "ssia.supervisor")
def test_the_task_stores_predictions_by_image_index() -> None:
    task = make_task(momentum=0.0)  # only the last prediction
    images, target, indices = make_batch()
    with torch.no_grad():
        task(make_batch(seed=1)[0], target, indices)
        output = task(images, target, indices)["output"]
    memory = task.memory
    assert memory is not None
    torch.testing.assert_close(memory.read(indices), torch.softmax(output, 1), atol=1e-3, rtol=0)
    assert int((memory.table.sum(1) > 0).sum()) == len(indices)


def test_lambda_0_trains_bit_for_bit_as_without_the_loss() -> None:
    def trained(task: Any, with_indices: bool) -> dict[str, Tensor]:
        optimizer = torch.optim.SGD(task.trainable_module.parameters(), lr=0.1)
        task.train()
        for _ in range(3):
            images, target, indices = make_batch()
            result = task(images, target, indices) if with_indices else task(images, target)
            optimizer.zero_grad()
            result["loss"].backward()
            optimizer.step()
        return dict(task.get_eval_model().state_dict())

    from timm.task import ClassificationTask

    torch.manual_seed(0)
    vanilla = ClassificationTask(timm.create_model("test_resnet", num_classes=CLASSES), verbose=False)
    expected, actual = trained(vanilla, False), trained(make_task(weight=0.0), True)
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


def test_a_checkpoint_of_the_task_has_the_memory() -> None:
    task, other = make_task(top=True), make_task(top=True)
    with torch.no_grad():
        task(*make_batch())
    state = task.get_checkpoint_state()
    other.load_checkpoint_state(**state)
    assert torch.equal(other.memory.table, task.memory.table)  # type: ignore[union-attr]
    assert other.memory.table.any()  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="the checkpoint has no memory of predictions"):
        other.load_task_state({"projection": state["task_state"]["projection"]})


def test_the_memory_follows_the_task_to_a_device_and_keeps_its_precision() -> None:
    task = make_task().to("meta")
    assert (task.memory.table.device.type, task.memory.table.dtype) == ("meta", torch.float16)  # type: ignore[union-attr]
    assert make_task().double().memory.table.dtype == torch.float16  # type: ignore[union-attr]


def test_a_compiled_task_learns_from_the_memory_too() -> None:
    def losses(task: SSIATask) -> list[float]:
        task.progress = 0.5
        with torch.no_grad():
            return [float(task(*make_batch(seed))["loss"]) for seed in range(3)]

    torch.compiler.reset()
    compiled = make_task(top=True)
    compiled.compile(backend="eager", fullgraph=True)
    assert losses(compiled) == pytest.approx(losses(make_task(top=True)))
    torch.compiler.reset()


def test_missing_arguments_of_a_memory_are_named() -> None:
    model = timm.create_model("test_resnet", num_classes=CLASSES)
    with pytest.raises(ConfigError, match="number of training images; give images=N"):
        SSIATask(model, SSIAConfig(**FORM), input_size=(3, 32, 32))
    images, target, _ = make_batch()
    with pytest.raises(ConfigError, match="images' indices; give them as third argument"):
        make_task()(images, target)


def test_the_memory_is_not_in_the_state_of_the_model_or_the_heads() -> None:
    task = make_task()
    vanilla = timm.create_model("test_resnet", num_classes=CLASSES)
    assert task.get_eval_model().state_dict().keys() == vanilla.state_dict().keys()
    assert not any(tensor.shape == (IMAGES, CLASSES) for tensor in task.trainable_module.state_dict().values())
