"""`SSIATask` trains as timm's own task does, adds the SSIA loss, and leaves the model as it was."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.distributed
import torch.nn.functional as F
from timm.optim import create_optimizer_v2
from timm.task import ClassificationTask
from torch import Tensor, nn

from ssia_zoo.errors import ConfigError
from ssia_zoo.loss.ssia import SSIAConfig
from ssia_zoo.models.features import forward_stages
from ssia_zoo.task import SSIATask

ALL_SIGNALS = {"labels": 0.0, "weight": 1.0, "channel": 0.5, "spatial": 0.5}
CLASSES = 5
SIZE = (3, 48, 48)

each_model = pytest.mark.parametrize("name", ["test_resnet", "test_vit"])  # with BatchNorm; with tokens


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Use one thread, which is faster for models this small, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    """Initialize a process group of this process alone."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def test_a_task_in_half_precision_trains() -> None:
    task = SSIATask(make_model("test_resnet"), SSIAConfig(pooling="attention"), input_size=SIZE).to(torch.bfloat16)
    task.progress = 0.5
    result = task(torch.randn(2, *SIZE, dtype=torch.bfloat16), torch.tensor([1, 2]))
    result["loss"].backward()
    assert result["ssia"].dtype == torch.float32
    assert all(p.grad is not None and p.grad.isfinite().all() for p in task.trainable_module.projection.parameters())


def make_model(name: str, drop: float = 0.0) -> Any:
    torch.manual_seed(0)
    size = {"img_size": SIZE[1]} if name == "test_vit" else {}
    return timm.create_model(name, num_classes=CLASSES, drop_rate=drop, drop_path_rate=drop, **size)


def make_task(name: str = "test_resnet", drop: float = 0.0, **choices: Any) -> SSIATask:
    config = SSIAConfig(**{**ALL_SIGNALS, "hidden": 16, **choices})
    return SSIATask(make_model(name, drop), config, input_size=SIZE)


def make_batch(seed: int = 0, batch: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(batch, *SIZE, generator=generator)
    return images, torch.randint(CLASSES, (batch,), generator=generator)


def layout(model: nn.Module) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (value.shape, value.dtype) for name, value in model.state_dict().items()}


def assert_same_state(one: nn.Module, other: nn.Module) -> None:
    a, b = one.state_dict(), other.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def train(task: Any, steps: int = 10) -> list[float]:
    optimizer = torch.optim.SGD(task.trainable_module.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    task.train()
    losses = []
    for step in range(steps):
        loss = task(*make_batch(step))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@each_model
def test_lambda_0_trains_as_timms_own_task_to_the_bit(name: str) -> None:
    vanilla = ClassificationTask(make_model(name, drop=0.3), verbose=False)
    torch.manual_seed(5)
    expected = train(vanilla)
    model = make_model(name, drop=0.3)
    torch.manual_seed(5)  # before the task: initializing the heads must not draw from the global generator
    task = SSIATask(model, SSIAConfig(**{**ALL_SIGNALS, "weight": 0}), input_size=SIZE)
    assert train(task) == expected
    assert_same_state(task.get_eval_model(), vanilla.get_eval_model())


@each_model
def test_lambda_1_trains_another_model_whose_heads_learn(name: str) -> None:
    vanilla = ClassificationTask(make_model(name), verbose=False)
    task = make_task(name)
    heads = copy.deepcopy(task.get_task_state()["projection"])
    train(vanilla, steps=2)
    train(task, steps=2)
    before, after = dict(vanilla.get_eval_model().named_parameters()), task.get_eval_model().named_parameters()
    assert any(not torch.equal(before[name], value) for name, value in after)
    assert all(not torch.equal(heads[name], value) for name, value in task.get_task_state()["projection"].items())


@each_model
def test_the_loss_is_the_task_loss_plus_lambda_times_ssia(name: str) -> None:
    task = make_task(name, weight=0.3)
    images, target = make_batch()
    result = task(images, target)
    assert result.keys() == {"loss", "output", "task_loss", "semantic", "channel", "spatial", "ssia"}
    torch.testing.assert_close(result["loss"], result["task_loss"] + 0.3 * result["ssia"])
    torch.testing.assert_close(result["task_loss"], F.cross_entropy(result["output"], target))
    assert result["output"].shape == (4, CLASSES)


def test_with_labels_the_heads_learn_by_the_tasks_own_criterion() -> None:
    task = SSIATask(
        make_model("test_resnet"),
        SSIAConfig(labels=2.0, handover=False, weight=1.0),
        input_size=SIZE,
        criterion_kwargs={"smoothing": 0.1},
    ).eval()
    images, target = make_batch()
    with torch.no_grad():
        result = task(images, target)
        module = task.trainable_module
        _, features = forward_stages(module.student, images, module.indices)
        heads = module.projection._predict_classes(features)
    expected = torch.stack([F.cross_entropy(z, target, label_smoothing=0.1) for z in heads]).mean()
    torch.testing.assert_close(result["labels"], expected)
    torch.testing.assert_close(result["loss"], result["task_loss"] + result["semantic"] + 2 * expected)


def test_progress_drives_the_handover() -> None:
    task = SSIATask(make_model("test_resnet"), input_size=SIZE).eval()
    task.progress = 0.25
    with torch.no_grad():
        result = task(*make_batch())
    torch.testing.assert_close(result["ssia"], 0.25 * result["semantic"] + 0.75 * result["labels"])


def test_progress_drives_lambda() -> None:
    task = make_task(schedule="cosine", warmup=0.5, weight=2.0).eval()
    for progress, weight in [(0.0, 0.0), (0.25, 1.0), (0.5, 2.0), (0.75, 1.0), (1.0, 0.0)]:
        task.progress = progress
        result = task(*make_batch())
        torch.testing.assert_close(result["loss"], result["task_loss"] + weight * result["ssia"])


@each_model
def test_the_student_is_the_vanilla_model(name: str) -> None:
    task = make_task(name)
    train(task, steps=2)
    student = task.get_eval_model()
    vanilla = make_model(name)
    assert type(student) is type(vanilla)
    assert layout(student) == layout(vanilla)
    assert sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in student.modules()) == 0
    vanilla.load_state_dict(student.state_dict(), strict=True)
    images, _ = make_batch()
    assert torch.equal(vanilla.eval()(images), student.eval()(images))


def test_the_student_of_the_moving_average_is_bare_and_follows() -> None:
    task = make_task()
    task.setup_ema(decay=0.5)
    averaged = task.get_eval_model(ema=True)
    assert type(averaged) is type(task.get_eval_model())
    assert averaged is not task.get_eval_model()
    assert layout(averaged) == layout(make_model("test_resnet"))
    start = averaged.fc.weight.clone()
    train(task, steps=1)
    task.update_ema()
    torch.testing.assert_close(averaged.fc.weight, (start + task.get_eval_model().fc.weight) / 2)
    heads = task.get_task_state(ema=True)["projection"]
    assert heads.keys() == task.get_task_state()["projection"].keys()
    assert task.get_checkpoint_state(ema=True).keys() == {"state_dict_ema", "task_state_ema"}


@pytest.mark.usefixtures("process_group")
@each_model
def test_distributed_training_of_one_process_is_the_same(name: str) -> None:
    alone = make_task(name)
    task = make_task(name)
    task.setup_ema()
    assert task.prepare_distributed() is task
    assert isinstance(task.trainable_module, nn.parallel.DistributedDataParallel)
    assert train(task, steps=3) == pytest.approx(train(alone, steps=3), rel=1e-4)
    task.update_ema()
    for student in (task.get_eval_model(), task.get_eval_model(ema=True)):
        assert type(student) is type(alone.get_eval_model())
        assert layout(student) == layout(make_model(name))
    assert task.get_task_state()["projection"].keys() == alone.get_task_state()["projection"].keys()
    assert task.get_checkpoint_state().keys() == {"state_dict", "task_state"}


def test_heads_round_trip_as_task_state() -> None:
    task = make_task()
    train(task, steps=1)
    saved = copy.deepcopy(task.get_checkpoint_state())
    other = make_task()
    assert not torch.equal(
        other.get_task_state()["projection"]["semantic.0.predict.bias"],
        saved["task_state"]["projection"]["semantic.0.predict.bias"],
    )
    other.load_checkpoint_state(saved["state_dict"], saved["task_state"])
    assert_same_state(other.trainable_module, task.trainable_module)
    other.load_task_state(None)  # a checkpoint of a run without heads
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_task_state({"projection": {}})


@pytest.mark.usefixtures("fresh_compiler")
@each_model
def test_the_training_step_compiles_without_a_graph_break(name: str) -> None:
    task = make_task(name, pooling="attention")
    compiled = torch.compile(task.trainable_module, backend="eager", fullgraph=True)
    images, _ = make_batch()
    twin = copy.deepcopy(task.trainable_module)
    logits, terms = compiled(images)
    expected_logits, expected_terms = twin(images)
    torch.testing.assert_close(logits, expected_logits)
    torch.testing.assert_close(terms, expected_terms)
    terms["ssia"].backward()
    expected_terms["ssia"].backward()
    for (key, parameter), other in zip(task.trainable_module.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, msg=key)


@pytest.mark.usefixtures("fresh_compiler")
def test_a_compiled_task_trains_as_an_eager_one() -> None:
    task = make_task(schedule="warmup", warmup=1.0)
    vanilla = make_model("test_resnet")
    student = task.get_eval_model()
    compiled = task.compile(backend="eager", fullgraph=True)
    assert task.get_eval_model() is compiled
    assert timm.utils.unwrap_model(compiled) is student
    assert train(task, steps=2) == pytest.approx(train(make_task(schedule="warmup", warmup=1.0), steps=2))
    state = task.get_checkpoint_state()
    assert state["state_dict"].keys() == vanilla.state_dict().keys()
    assert state["task_state"]["projection"].keys() == make_task().get_task_state()["projection"].keys()
    images, _ = make_batch()
    with torch.no_grad():
        torch.testing.assert_close(compiled.eval()(images), student(images))


def test_weight_decay_exempts_what_the_student_names() -> None:
    task = make_task("test_vit")
    module = task.trainable_module
    named = task.get_eval_model().no_weight_decay()
    assert "pos_embed" in named
    optimizer = create_optimizer_v2(module, "adamw", lr=0.1, weight_decay=0.05)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decay) == len(list(module.parameters()))
    for name, parameter in module.named_parameters():
        exempt = parameter.ndim <= 1 or name.removeprefix("student.") in named
        assert decay[id(parameter)] == (0.0 if exempt else 0.05), name


@each_model
def test_layer_decay_gives_the_heads_the_full_rate_and_the_stem_the_least(name: str) -> None:
    task = make_task(name)
    optimizer = create_optimizer_v2(task.trainable_module, "adamw", lr=0.1, weight_decay=0.05, layer_decay=0.75)
    scale = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    assert len(scale) == len(list(task.trainable_module.parameters()))
    assert {scale[id(p)] for p in task.trainable_module.projection.parameters()} == {1.0}
    classifier = task.get_eval_model().get_classifier()
    assert scale[id(classifier.weight)] == 1.0
    assert scale[id(next(task.get_eval_model().parameters()))] == min(scale.values()) < 0.75
    task(*make_batch())["loss"].backward()
    optimizer.step()


def test_clipped_parameters_are_the_students_and_the_heads() -> None:
    task = make_task()
    everything = {id(p) for p in task.trainable_module.parameters()}
    assert {id(p) for p in task.get_clip_parameters()} == everything
    classifier = {id(p) for p in task.get_eval_model().get_classifier().parameters()}
    assert {id(p) for p in task.get_clip_parameters(exclude_head=True)} == everything - classifier


def test_a_plain_pytorch_loop_trains_a_model_that_plain_timm_loads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    batches = [make_batch(0, batch=8)]

    model = timm.create_model("test_resnet", num_classes=CLASSES)
    task = SSIATask(model, SSIAConfig(schedule="cosine"), input_size=SIZE)
    optimizer = torch.optim.AdamW(task.trainable_module.parameters(), lr=1e-3)
    task.train()
    losses = []
    for epoch in range(10):
        task.progress = epoch / 10
        for images, labels in batches:
            result = task(images, labels)
            result["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()
        losses.append(result["task_loss"].item())
    torch.save(task.get_eval_model().state_dict(), tmp_path / "model.pth")

    assert losses[-1] < losses[0] / 2
    loaded = timm.create_model("test_resnet", num_classes=CLASSES, checkpoint_path=str(tmp_path / "model.pth"))
    assert_same_state(loaded, model)


def test_it_trains_in_timms_own_order_of_calls(tmp_path: Path) -> None:
    """As timm's train.py: EMA, clipping, evaluation and checkpoints through the task's methods."""
    task = make_task()
    task.setup_ema(decay=0.9)
    optimizer = create_optimizer_v2(task.get_trainable_module(), "adamw", lr=0.01)
    for step in range(2):
        with task.no_sync():
            task(*make_batch(step))["loss"].backward()
        torch.nn.utils.clip_grad_norm_(task.get_clip_parameters(), 1.0)
        optimizer.step()
        task.update_ema(step=step)
    evaluator = task.create_evaluator()
    images, labels = make_batch()
    evaluator.update(task.get_eval_model(ema=True).eval()(images), labels)
    assert 0 <= evaluator.compute()["top1"] <= 100
    saved = {**task.get_checkpoint_state(), **task.get_checkpoint_state(ema=True)}
    torch.save(saved, tmp_path / "last.pth.tar")
    resumed = make_task()
    resumed.setup_ema(decay=0.9)
    state = torch.load(tmp_path / "last.pth.tar", weights_only=True)
    resumed.load_checkpoint_state(state["state_dict"], state["task_state"])
    resumed.load_checkpoint_state(state["state_dict_ema"], state["task_state_ema"], ema=True)
    assert_same_state(resumed.trainable_module, task.trainable_module)
    assert_same_state(resumed.trainable_module_ema.module, task.trainable_module_ema.module)


def test_the_criterion_can_be_chosen() -> None:
    images, target = make_batch()
    args: Any = {"config": SSIAConfig(), "input_size": SIZE}
    smooth = SSIATask(make_model("test_resnet"), criterion_kwargs={"smoothing": 0.1}, **args)(images, target)
    torch.testing.assert_close(smooth["task_loss"], F.cross_entropy(smooth["output"], target, label_smoothing=0.1))
    own = SSIATask(make_model("test_resnet"), criterion=lambda logits, _: logits.square().mean(), **args)(
        images, target
    )
    torch.testing.assert_close(own["task_loss"], own["output"].square().mean())


@each_model
def test_autocast_trains_close_to_float32(name: str) -> None:
    task = make_task(name)
    expected = task(*make_batch())
    with torch.autocast("cpu", torch.bfloat16):
        result = task(*make_batch())
    assert result["output"].dtype == torch.bfloat16
    for key in ("loss", "task_loss", "semantic", "channel", "spatial", "ssia"):
        assert result[key].dtype == torch.float32, key
        torch.testing.assert_close(result[key], expected[key], rtol=0.05, atol=0.02)
    result["loss"].backward()
    for key, parameter in task.trainable_module.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key


def test_no_input_size_means_the_models_own() -> None:
    task = SSIATask(timm.create_model("test_vit", num_classes=CLASSES))  # 160 pixels, patches of 16
    assert task.trainable_module.projection.shapes == [(64, 10, 10)] * 4


def test_a_model_that_cannot_be_trained_is_refused() -> None:
    with pytest.raises(ConfigError, match="no classifier"):
        SSIATask(timm.create_model("test_resnet", num_classes=0))
    with pytest.raises(ConfigError, match="cannot take images of size"):
        SSIATask(make_model("test_resnet"), input_size=(1, 48, 48))
    with pytest.raises(ConfigError, match="no pair has a spatial signal"):
        SSIATask(make_model("test_resnet"), SSIAConfig(labels=0, semantic=0, spatial=1), input_size=(3, 32, 32))
    with pytest.raises(ValueError, match="criterion or criterion_kwargs, not both"):
        SSIATask(make_model("test_resnet"), criterion=nn.CrossEntropyLoss(), criterion_kwargs={"smoothing": 0.1})
