"""Distillation from a teacher, by timm's own tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from ssia_zoo.errors import SSIAZooError
from ssia_zoo.loss import RivalConfig
from ssia_zoo.training.config import TrainConfig
from ssia_zoo.training.methods import create_task
from ssia_zoo.training.metrics import read_records
from tests.helpers.runs import same_weights, small_run
from tests.training.test_methods import SHORT

SIZE = (3, 64, 64)
each_method = pytest.mark.parametrize("method", ["logit-kd", "feature-kd"])


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model of the digits, by its folder; of wider features than the student's."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    return small_run(folder, model="test_byobnet", method="vanilla", **SHORT, max_steps=2).folder


def make_student() -> Any:
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=10)


def make_task(method: str, teacher: Path, names: tuple[str, ...] = (), **settings: Any) -> Any:
    return create_task(
        make_student(), TrainConfig(method=method, teacher=str(teacher), **settings), SIZE, label_names=names
    )


def make_batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, *SIZE, generator=generator), torch.randint(10, (4,), generator=generator)


@pytest.mark.covers("teacher")
@each_method
def test_a_run_learns_from_the_teacher_and_says_so(tmp_path: Path, teacher: Path, method: str) -> None:
    result = small_run(tmp_path / "run", method=method, teacher=teacher, **SHORT, **{"rival.weight": 0.5})
    record = read_records(result.folder / "metrics.jsonl")[0]
    assert record["lambda"] == 0.5
    assert record["kd_loss"] > 0
    assert record["loss"] == pytest.approx(record["task_loss"] + 0.5 * record["kd_loss"], rel=1e-5)
    vanilla = timm.create_model("test_resnet", num_classes=10).state_dict()
    assert timm.create_model(f"local-dir:{result.folder}", pretrained=True).state_dict().keys() == vanilla.keys()
    card = " ".join((result.folder / "README.md").read_text().split())
    assert "DistillationTask, from the teacher local-dir:run" in card
    assert str(teacher) not in card
    stated = json.loads((result.folder / "config.json").read_text())["ssia"]["training"]
    assert (stated["teacher"], stated["rival"]["weight"]) == ("local-dir:run", 0.5)


@each_method
def test_lambda_zero_is_vanilla_to_the_bit(tmp_path: Path, teacher: Path, method: str) -> None:
    small_run(tmp_path / "zero", method=method, teacher=teacher, **SHORT, **{"rival.weight": 0.0})
    small_run(tmp_path / "vanilla", method="vanilla", **SHORT)
    assert same_weights(tmp_path / "zero", tmp_path / "vanilla")


def test_logits_are_matched_with_the_teachers_at_the_temperature(teacher: Path) -> None:
    settings = {"temperature": 4.0, "task_loss_weight": 0.25}
    task = make_task("logit-kd", teacher, method_kwargs=settings, rival=RivalConfig(weight=2.0))
    images, labels = make_batch()
    task.eval()
    result = task(images, labels)
    wanted = task.teacher.model(task.teacher.normalize_input(images, task.student_mean, task.student_std))
    kd = 16 * F.kl_div(F.log_softmax(result["output"] / 4, dim=1), F.softmax(wanted / 4, dim=1), reduction="batchmean")
    torch.testing.assert_close(result["kd_loss"], kd)
    torch.testing.assert_close(result["loss"], 0.25 * F.cross_entropy(result["output"], labels) + 2 * kd)


@each_method
def test_the_distillation_loss_follows_lambdas_schedule_and_trains_the_student_alone(
    teacher: Path, method: str
) -> None:
    task = make_task(method, teacher, rival=RivalConfig(weight=2.0, schedule="warmup", warmup=0.5)).train()
    for progress, expected in ((0.0, 0.0), (0.25, 1.0), (1.0, 2.0)):
        task.progress = progress
        result = task(*make_batch())
        torch.testing.assert_close(result["loss"], result["task_loss"] + expected * result["kd_loss"])
    result["loss"].backward()
    assert all(parameter.grad is not None for parameter in task.trainable_module.parameters())
    assert all(parameter.grad is None for parameter in task.teacher.parameters())
    assert not any(module.training for module in task.teacher.modules())
    assert type(task.get_eval_model()).__name__ == "ResNet"


def test_the_teachers_logits_are_matched_with_the_classes_by_name(teacher: Path) -> None:
    own = json.loads((teacher / "config.json").read_text())["label_names"]
    straight, reordered = (make_task("logit-kd", teacher, names=tuple(names)).eval() for names in (own, own[::-1]))
    images, _ = make_batch()
    torch.testing.assert_close(reordered.teacher.model(images), straight.teacher.model(images).flip(1))


@each_method
def test_the_teacher_gets_images_normalized_as_it_was_trained(tmp_path: Path, teacher: Path, method: str) -> None:
    task = make_task(method, teacher)
    task.teacher.mean_kd, task.teacher.std_kd = torch.full((1, 3, 1, 1), 0.25), torch.full((1, 3, 1, 1), 0.1)
    images, _ = make_batch()
    got = task.teacher.normalize_input(images, task.student_mean, task.student_std)
    torch.testing.assert_close(got, (images * task.student_std + task.student_mean - 0.25) / 0.1)
    assert task.student_mean.flatten().tolist() == pytest.approx(make_student().pretrained_cfg["mean"])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "`method` logit-kd requires `teacher`"),
        ({"teacher": "./nowhere"}, "`teacher` ./nowhere: there is no folder nowhere"),
        ({"teacher": "resnet_18"}, "`teacher` resnet_18: there is no model"),
        ({"teacher": "{}", "method": "dsn"}, "`teacher` is for the methods logit-kd and feature-kd; `method` is dsn"),
        ({"teacher": "{}", "method_kwargs": "temprature=2"}, "temprature: is not a setting of logit-kd; did you mean"),
        ({"teacher": "{}", "method_kwargs": "temperature=0"}, "temperature=0; expected a number greater than 0"),
        ({"teacher": "{}", "method_kwargs": "distill_loss_weight=1"}, "distill_loss_weight: is not a setting"),
        ({"teacher": "{}", "in_chans": 1, "model": "test_vit", "image_size": 32}, None),
    ],
    ids=str,
)
def test_what_cannot_be_used_gets_one_line(
    tmp_path: Path, teacher: Path, settings: dict[str, Any], expected: str | None
) -> None:
    settings = {"method": "logit-kd", **SHORT, "max_steps": 1, **settings}
    if "teacher" in settings:
        settings["teacher"] = settings["teacher"].format(teacher)
    if expected is None:
        small_run(tmp_path / "run", **settings)
        return
    with pytest.raises(SSIAZooError, match=expected) as caught:
        small_run(tmp_path / "run", **settings)
    assert "\n" not in str(caught.value)


def test_a_teacher_that_lacks_a_class_is_refused(teacher: Path) -> None:
    with pytest.raises(SSIAZooError, match=r"`teacher` .* classes"):
        make_task("logit-kd", teacher, names=tuple("abcdefghi"))
    assert make_task("feature-kd", teacher, names=tuple("abcdefghi"))
