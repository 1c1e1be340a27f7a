"""Training objectives by name: a run with every rival, and the model card of its weights."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from huggingface_hub import ModelCard
from timm.task import ClassificationTask
from torch import Tensor

from ssia_zoo.errors import ConfigError
from ssia_zoo.loss import RivalConfig
from ssia_zoo.task import AuxiliaryTask
from ssia_zoo.training.arguments import parse_config
from ssia_zoo.training.config import TrainConfig
from ssia_zoo.training.methods import RIVALS, create_task, with_lambda
from ssia_zoo.training.metrics import read_records
from tests.helpers.runs import same_weights, small_run, weights

SIZE = (3, 64, 64)
CLASSES = 5
SHORT = {"image_size": 64, "max_train_images": 32, "epochs": 1}

each_rival = pytest.mark.parametrize("name", RIVALS)
with_labels = pytest.mark.parametrize("name", [name for name, loss in RIVALS.items() if loss.uses_labels])


def make_task(name: str, arch: str = "test_resnet", **settings: Any) -> AuxiliaryTask:
    torch.manual_seed(0)
    size = {"img_size": SIZE[1]} if arch == "test_vit" else {}
    model = timm.create_model(arch, num_classes=CLASSES, drop_path_rate=0.2, **size)
    task = create_task(model, TrainConfig(method=name, **settings), SIZE)
    assert isinstance(task, AuxiliaryTask)
    return task


def make_batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, *SIZE, generator=generator), torch.randint(CLASSES, (4,), generator=generator)


@pytest.fixture
def head_predictions() -> Callable[[AuxiliaryTask, Tensor], list[Tensor]]:
    def predictions(task: AuxiliaryTask, images: Tensor) -> list[Tensor]:
        module = task.trainable_module
        maps = module.student.forward_intermediates(images, indices=module.indices, intermediates_only=True)
        return module.projection.classifiers(maps)[0]

    return predictions


def slow_but(quick: str, *others: str) -> list[Any]:
    return [quick, *(pytest.param(other, marks=pytest.mark.slow) for other in others)]


@pytest.mark.parametrize("model", slow_but("test_resnet", "test_vit", "test_convnext", "mobilenetv3_small_050"))
@each_rival
def test_a_run_with_a_rival_gives_a_vanilla_model_that_is_not_called_ssia(
    tmp_path: Path, name: str, model: str
) -> None:
    result = small_run(tmp_path / "run", method=name, model=model, **SHORT, max_steps=1)
    record = read_records(result.folder / "metrics.jsonl")[0]
    assert record["lambda"] == RIVALS[name].default_weight
    assert record["loss"] == pytest.approx(record["task_loss"] + record["lambda"] * record[name], rel=1e-5)
    loaded = timm.create_model(f"local-dir:{result.folder}", pretrained=True)
    assert loaded.state_dict().keys() == weights(result.folder).keys()

    card = (result.folder / "README.md").read_text()
    assert f"but with another auxiliary objective during training: {RIVALS[name].source}" in " ".join(card.split())
    assert "reconstruction" not in card
    assert "ssia" not in ModelCard(card).data.tags
    described = json.loads((result.folder / "config.json").read_text())["ssia"]
    assert described["method"] == name
    assert described["training"]["rival"] == {"weight": None, "schedule": "constant", "warmup": 0.1}
    assert "ssia" not in described["training"]


@pytest.mark.parametrize("name", slow_but("dks", "sad", "at", "dsn", "byot"))
def test_a_run_with_lambda_zero_is_vanilla_to_the_bit(tmp_path: Path, name: str) -> None:
    short = {**SHORT, "clip_grad": 1.0}
    small_run(tmp_path / "zero", method=name, **short, **{"rival.weight": 0.0})
    small_run(tmp_path / "own", method=name, **short)
    small_run(tmp_path / "vanilla", method="vanilla", **short)
    assert same_weights(tmp_path / "zero", tmp_path / "vanilla")
    assert not same_weights(tmp_path / "own", tmp_path / "vanilla")


@pytest.mark.covers("method")
@each_rival
def test_a_method_selects_the_objective_of_its_name(name: str) -> None:
    assert make_task(name).objective_name == name


@pytest.mark.covers("rival.weight", "rival.schedule", "rival.warmup")
@each_rival
def test_lambda_of_a_rival_follows_its_schedule(name: str) -> None:
    def lambdas(**settings: Any) -> list[float]:
        task = make_task(name, rival=RivalConfig(**settings))
        return [task.lambda_at(progress) for progress in (0, 0.25, 0.5, 0.75, 1)]

    assert lambdas() == [RIVALS[name].default_weight] * 5
    assert lambdas(weight=3.0) == [3.0] * 5
    assert lambdas(weight=2.0, schedule="warmup", warmup=0.5) == pytest.approx([0, 1, 2, 2, 2])
    assert lambdas(weight=2.0, schedule="cosine", warmup=0.5) == pytest.approx([0, 1, 2, 1, 0])


@each_rival
@pytest.mark.parametrize("arch", ["test_resnet", "test_vit"])
def test_lambda_zero_trains_as_timms_own_task_to_the_bit(name: str, arch: str) -> None:
    def train(task: Any) -> dict[str, Tensor]:
        optimizer = torch.optim.SGD(task.trainable_module.parameters(), lr=0.05, momentum=0.9)
        torch.manual_seed(5)  # for dropped paths
        for step in range(3):
            optimizer.zero_grad()
            task(*make_batch(step))["loss"].backward()
            optimizer.step()
        state: dict[str, Tensor] = task.get_eval_model().state_dict()
        return state

    torch.manual_seed(0)
    size = {"img_size": SIZE[1]} if arch == "test_vit" else {}
    vanilla = ClassificationTask(timm.create_model(arch, num_classes=CLASSES, drop_path_rate=0.2, **size))
    zero = make_task(name, arch, rival=RivalConfig(weight=0.0))
    expected, actual = train(vanilla), train(zero)
    assert all(torch.equal(actual[key], value) for key, value in expected.items())


@pytest.mark.covers("smoothing")
@with_labels
@pytest.mark.parametrize("settings", [{"smoothing": 0.1}, {"mixup": 0.2}], ids=lambda settings: "-".join(settings))
def test_heads_use_the_criterion_of_the_task(
    name: str, settings: dict[str, float], head_predictions: Callable[[AuxiliaryTask, Tensor], list[Tensor]]
) -> None:
    task = make_task(name, **settings).eval()
    images, labels = make_batch()
    target = labels if "smoothing" in settings else torch.softmax(images[:, 0, 0, :CLASSES], dim=1)  # mixed labels
    result = task(images, target)
    smoothing = settings.get("smoothing", 0.0)
    expected = sum(F.cross_entropy(z, target, label_smoothing=smoothing) for z in head_predictions(task, images))
    torch.testing.assert_close(result["dsn" if name == "dsn" else "labels"], expected)
    torch.testing.assert_close(
        result["task_loss"], F.cross_entropy(result["output"], target, label_smoothing=smoothing)
    )


@each_rival
def test_a_rivals_heads_are_task_state(name: str) -> None:
    task, other = make_task(name), make_task(name)
    state = task.get_task_state()
    assert state.keys() == {"projection"}
    for value in other.trainable_module.projection.parameters():
        value.data.zero_()
    other.load_task_state(state)
    assert all(
        torch.equal(state["projection"][key], value) for key, value in other.get_task_state()["projection"].items()
    )
    vanilla = timm.create_model("test_resnet", num_classes=CLASSES).state_dict()
    assert task.get_checkpoint_state()["state_dict"].keys() == vanilla.keys()


@each_rival
def test_the_training_step_compiles_without_a_graph_break(name: str) -> None:
    torch.compiler.reset()
    task = make_task(name).eval()
    images, labels = make_batch()
    arguments = (images, labels) if RIVALS[name].uses_labels else (images,)
    expected = task.trainable_module(*arguments)[1][name]
    compiled = torch.compile(task.trainable_module, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*arguments)[1][name], expected)
    torch.compiler.reset()


def test_a_deepest_map_without_positions_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^AT has no signal: [^\n]*larger images[^\n]*$"):
        small_run(tmp_path / "run", method="at")  # the last stage of test_resnet has one position at 32 pixels


@pytest.mark.parametrize(
    ("method", "flags", "named"),
    [
        ("ssia", ("--rival.weight", "0"), "`rival.weight`: not used by `method` ssia"),
        ("dsn", ("--ssia.hidden", "8", "--ssia.weight", "0"), "`ssia.hidden`, `ssia.weight`: not used by `method` dsn"),
        ("vanilla", ("--ssia.weight", "2"), "`ssia.weight`: not used by `method` vanilla"),
        ("dsn", ("--rival.weight", "0.5"), None),
        ("ssia", ("--ssia.weight", "0.5"), None),
    ],
)
def test_settings_of_the_other_kind_of_loss_are_named(
    method: str, flags: tuple[str, ...], named: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    required = ("--model", "test_resnet", "--dataset", "digits", "--output-dir", "x")
    config = parse_config([*required, "--method", method, *flags])
    with caplog.at_level(logging.INFO):
        with_lambda(config, timm.create_model("test_resnet"))
    found = [message for message in caplog.messages if "not used" in message]
    if named is None:
        assert not found
    else:
        assert [set(found[0].split(": ")[0].split(", ")), len(found)] == [set(named.split(": ")[0].split(", ")), 1]
        assert found[0].endswith(named.split(": ")[1])
