"""Optimizer, learning rate and schedule that timm builds from the settings."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import timm
import torch

from ssia_zoo.errors import ConfigError
from ssia_zoo.training.config import TrainConfig
from ssia_zoo.training.methods import create_task
from ssia_zoo.training.optimization import build_optimizer, build_scheduler, skips_by_itself, with_scaled_lr

STEPS = 10  # per epoch


def module_of(model: str, method: str = "ssia") -> torch.nn.Module:
    student = timm.create_model(model, num_classes=10)
    module: torch.nn.Module = create_task(student, TrainConfig(method=method), (3, 64, 64)).trainable_module
    return module


def names(module: torch.nn.Module, parameters: list[torch.nn.Parameter]) -> set[str]:
    of = {id(parameter): name for name, parameter in module.named_parameters()}
    return {of[id(parameter)].removeprefix("student.") for parameter in parameters}


def rates(config: TrainConfig) -> list[float]:
    """Return the learning rate of each optimizer step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], config.lr)
    scheduler = build_scheduler(config, optimizer, STEPS)
    values = []
    for step in range(config.epochs * STEPS):
        values.append(optimizer.param_groups[0]["lr"])
        scheduler.step_update(step + 1)
    return values


@pytest.mark.covers("schedule", "warmup_epochs", "warmup_lr")
@pytest.mark.parametrize("schedule", ["cosine", "tanh", "step", "multistep", "poly", "wsd", "rsqrt", "constant"])
def test_every_schedule_warms_up_each_step_to_its_peak_and_moves_within_an_epoch(schedule: str) -> None:
    more = {"decay_milestones": (6, 8)} if schedule == "multistep" else {}
    if schedule == "step":
        more = {"decay_epochs": 4.0}
    config = TrainConfig(lr=0.5, schedule=schedule, epochs=10, warmup_epochs=2.0, warmup_lr=0.1, **more)
    values = rates(config)
    assert values[0] == pytest.approx(0.1)
    warm = values[: 2 * STEPS]
    assert [b - a for a, b in pairwise(warm)] == pytest.approx([0.4 / (2 * STEPS)] * (2 * STEPS - 1), rel=1e-3)
    assert values[2 * STEPS] == pytest.approx(0.5, rel=0.1)
    assert (values[-1] < 0.5 * max(values)) == (schedule not in ("constant", "poly"))


@pytest.mark.covers("decay_epochs", "decay_rate", "decay_milestones")
def test_steps_and_milestones_multiply_by_the_decay_rate() -> None:
    step = rates(TrainConfig(lr=1.0, schedule="step", epochs=9, warmup_epochs=0.0, decay_epochs=3.0, decay_rate=0.5))
    assert [step[STEPS * epoch] for epoch in (0, 2, 3, 6)] == pytest.approx([1, 1, 0.5, 0.25])
    milestones = TrainConfig(lr=1.0, schedule="multistep", epochs=9, warmup_epochs=0.0, decay_milestones=(2, 7))
    values = rates(milestones)
    assert [values[STEPS * epoch] for epoch in (1, 2, 6, 7)] == pytest.approx([1, 0.1, 0.1, 0.01])


def test_poly_falls_by_its_power_and_wsd_at_its_end_only() -> None:
    poly = rates(TrainConfig(lr=1.0, schedule="poly", epochs=10, warmup_epochs=0.0, decay_rate=2.0))
    assert poly[STEPS * 5] == pytest.approx(0.25)
    wsd = rates(TrainConfig(lr=1.0, schedule="wsd", epochs=10, warmup_epochs=0.0, decay_epochs=0.3))
    assert wsd[STEPS * 7 - 1] == 1.0
    assert wsd[STEPS * 8] < 0.6


@pytest.mark.covers("min_lr", "epochs")
def test_the_end_of_a_schedule_is_min_lr() -> None:
    values = rates(TrainConfig(lr=1.0, schedule="cosine", epochs=10, warmup_epochs=0.0, min_lr=0.2))
    assert values[-1] == pytest.approx(0.2, abs=0.01)


@pytest.mark.covers("lr_base", "lr_base_size", "lr_base_scale", "batch_size", "accumulation_steps", "optimizer")
@pytest.mark.parametrize(
    ("optimizer", "scale", "expected"),
    [
        ("sgd", None, 0.1 * 2),
        ("adamw", None, 0.1 * math.sqrt(2)),
        ("lamb", None, 0.1 * math.sqrt(2)),
        ("adamw", "linear", 0.1 * 2),
        ("sgd", "sqrt", 0.1 * math.sqrt(2)),
    ],
)
def test_the_learning_rate_grows_with_the_global_batch_as_in_timm(
    optimizer: str, scale: str | None, expected: float
) -> None:
    config = TrainConfig(
        optimizer=optimizer, lr_base=0.1, lr_base_scale=scale, lr_base_size=64, batch_size=16, accumulation_steps=4
    )
    assert with_scaled_lr(config, processes=2).lr == pytest.approx(expected)
    assert with_scaled_lr(TrainConfig(lr=0.3), processes=8).lr == 0.3, "without lr_base it is used as it is"


@pytest.mark.covers("min_lr")
def test_a_scaled_learning_rate_below_min_lr_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"`min_lr` is 0\.001; expected at most"):
        with_scaled_lr(TrainConfig(lr_base=1e-4, min_lr=1e-3), processes=1)


@pytest.mark.covers("optimizer", "lr", "momentum", "weight_decay")
@pytest.mark.parametrize(
    ("optimizer", "kind", "momentum"), [("momentum", "SGD", "momentum"), ("rmsproptf", "RMSpropTF", "momentum")]
)
def test_the_optimizer_is_the_one_asked_for_with_its_settings(optimizer: str, kind: str, momentum: str) -> None:
    config = TrainConfig(optimizer=optimizer, lr=0.25, momentum=0.5, weight_decay=0.125)
    made = build_optimizer(config, module_of("test_resnet"))
    assert type(made).__name__ == kind
    assert {(group["lr"], group[momentum]) for group in made.param_groups} == {(0.25, 0.5)}
    assert {group["weight_decay"] for group in made.param_groups} == {0.0, 0.125}


def test_an_optimizer_of_second_order_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^`optimizer` adahessian needs second derivatives"):
        build_optimizer(TrainConfig(optimizer="adahessian"), torch.nn.Linear(2, 2))


@pytest.mark.covers("opt_betas", "opt_eps", "opt_kwargs")
def test_arguments_of_the_optimizer_reach_it() -> None:
    config = TrainConfig(opt_betas=(0.8, 0.95), opt_eps=1e-5, opt_kwargs={"amsgrad": True})
    (group, *_) = build_optimizer(config, module_of("test_resnet")).param_groups
    assert (group["betas"], group["eps"], group["amsgrad"], group["fused"]) == ((0.8, 0.95), 1e-5, True, True)


@pytest.mark.covers("opt_betas", "opt_eps", "opt_kwargs")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "sgd", "opt_betas": (0.9, 0.99)}, r"`opt_betas`: `optimizer` sgd does not use it"),
        ({"optimizer": "sgd", "opt_eps": 1e-6}, r"`opt_eps`: `optimizer` sgd does not use it"),
        ({"opt_kwargs": {"amsgrat": True}}, r"`optimizer` adamw does not support these settings: .*amsgrat"),
        ({"opt_betas": (0.9, 0.99, 0.999)}, r"`opt_betas` has 3 values; expected 2, such as \(0\.9, 0\.999\)"),
    ],
    ids=["betas", "eps", "unknown", "three-betas"],
)
def test_arguments_that_the_optimizer_does_not_use_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_optimizer(TrainConfig(**settings), module_of("test_resnet"))


@pytest.mark.parametrize(
    ("settings", "fused"),
    [
        ({}, True),
        ({"optimizer": "sgd"}, True),
        ({"optimizer": "momentum", "opt_kwargs": {"dampening": 0.5}}, False),
        ({"opt_kwargs": {"foreach": True}}, False),
        ({"optimizer": "lamb"}, False),
    ],
)
def test_torchs_fused_form_is_used_where_there_is_one(settings: dict[str, Any], fused: bool) -> None:
    assert skips_by_itself(build_optimizer(TrainConfig(**settings), module_of("test_resnet"))) == fused


@pytest.mark.covers("head_lr")
@pytest.mark.parametrize("layer_decay", [None, 0.5])
@pytest.mark.parametrize("method", ["ssia", "vanilla"])
def test_the_classifier_has_its_own_rate_which_follows_the_schedule(method: str, layer_decay: float | None) -> None:
    module = module_of("test_vit", method)
    config = TrainConfig(
        **{"lr": 0.1, "head_lr": 0.5, "layer_decay": layer_decay, "epochs": 10, "warmup_epochs": 1.0, "min_lr": 0.01}
    )
    optimizer, plain = build_optimizer(config, module), build_optimizer(replace(config, head_lr=None), module)
    scheduler, plain_scheduler = build_scheduler(config, optimizer, STEPS), build_scheduler(config, plain, STEPS)

    def settings(made: torch.optim.Optimizer) -> dict[str, tuple[float, float]]:
        groups = made.param_groups
        return {name: (g["lr"], g["weight_decay"]) for g in groups for name in names(module, g["params"])}

    for step in (0, STEPS // 2, STEPS, 5 * STEPS, 10 * STEPS - 1):
        scheduler.step_update(step)
        plain_scheduler.step_update(step)
        ours, theirs = settings(optimizer), settings(plain)
        assert ours.keys() == theirs.keys()
        head = {"head.weight", "head.bias"}
        assert {name: ours[name] for name in ours.keys() - head} == {name: theirs[name] for name in ours.keys() - head}
        for name in head:
            assert ours[name] == (pytest.approx(5 * theirs[name][0]), theirs[name][1])
    assert settings(optimizer)["head.weight"][1] > settings(optimizer)["head.bias"][1] == 0, "biases do not decay"


@pytest.mark.covers("lr")
def test_the_warm_up_starts_at_a_thousandth_of_the_peak() -> None:
    assert rates(TrainConfig(lr=0.5, epochs=4))[0] == pytest.approx(0.0005)


@pytest.mark.parametrize("method", ["ssia", "vanilla"])
def test_biases_norms_and_what_the_model_exempts_do_not_decay(method: str) -> None:
    module = module_of("test_vit", method)
    optimizer = build_optimizer(TrainConfig(weight_decay=0.1), module)
    decayed = names(module, [p for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]])
    assert "blocks.0.attn.qkv.weight" in decayed
    free = names(module, [p for g in optimizer.param_groups if not g["weight_decay"] for p in g["params"]])
    assert {"blocks.0.attn.qkv.bias", "blocks.0.norm1.weight", "pos_embed", "cls_token"} <= free
    assert len(decayed) + len(free) == len(list(module.parameters())), "each parameter is in one group"


@pytest.mark.covers("layer_decay")
def test_layer_decay_gives_a_student_the_same_rates_with_heads_as_without() -> None:
    scales = {}
    for method in ("ssia", "vanilla"):
        module = module_of("test_vit", method)
        groups = build_optimizer(TrainConfig(layer_decay=0.5), module).param_groups
        scales[method] = {name: g["lr_scale"] for g in groups for name in names(module, g["params"])}
    heads = {name for name in scales["ssia"] if name.startswith("projection.")}
    assert heads
    assert {name: scales["ssia"][name] for name in scales["ssia"].keys() - heads} == scales["vanilla"]
    assert {scales["ssia"][name] for name in heads} == {1.0}, "heads learn at the full rate"
    assert scales["vanilla"]["head.weight"] == 1.0
    first, second = (scales["vanilla"][f"blocks.{i}.attn.qkv.weight"] for i in (0, 1))
    assert first == pytest.approx(second / 2)


def test_kron_draws_the_same_numbers_in_all_processes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module = module_of("test_resnet")
    assert not build_optimizer(TrainConfig(optimizer="kron"), module).deterministic  # type: ignore[attr-defined]
    monkeypatch.setattr("ssia_zoo.training.optimization.several_processes", lambda: True)
    caplog.set_level(logging.INFO, "ssia_zoo")
    assert build_optimizer(TrainConfig(optimizer="kron"), module).deterministic  # type: ignore[attr-defined]
    assert "`optimizer` kron: deterministic=True" in caplog.text
    with pytest.raises(ConfigError, match="kron has to draw the same random numbers"):
        build_optimizer(TrainConfig(optimizer="kron", opt_kwargs={"deterministic": False}), module)
