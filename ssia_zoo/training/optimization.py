"""timm's optimizers and learning rate schedules, from the settings of a run."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from functools import partial
from inspect import signature
from typing import Any

import torch
from timm.optim import (
    create_optimizer_v2,
    get_optimizer_class,
    get_optimizer_info,
    list_optimizers,
    param_groups_layer_decay,
    param_groups_weight_decay,
)
from timm.scheduler import create_scheduler_v2

from ssia_zoo.errors import ConfigError, did_you_mean, one_line
from ssia_zoo.loss.processes import several_processes
from ssia_zoo.training.config import TrainConfig
from ssia_zoo.training.freezing import classifier_parameters

_log = logging.getLogger(__name__)

_FUSED = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
_NOT_FUSED = {"fused", "foreach", "differentiable", "dampening"}
"""Arguments that decide the form themselves, or (dampening) make a first momentum that is not its gradient."""


def with_scaled_lr(config: TrainConfig, processes: int) -> TrainConfig:
    """Set `lr` from `lr_base` and the global batch size, as timm's train.py does; without `lr_base`, change nothing.

    Raises:
        ConfigError: The learning rate is below `min_lr`.
    """
    if config.lr_base is None:
        return config
    ratio = config.batch_size * config.batches_per_step * processes / config.lr_base_size
    name = config.optimizer.lower()
    scale = config.lr_base_scale or ("sqrt" if "ada" in name or "lamb" in name else "linear")
    config = replace(config, lr=config.lr_base * (ratio**0.5 if scale == "sqrt" else ratio))
    if config.min_lr > config.lr:
        raise ConfigError(f"`min_lr` is {config.min_lr}; expected at most {config.lr:g}, `lr` as scaled from `lr_base`")
    _log.info("learning rate %g: %g for a batch of %d, %s", config.lr, config.lr_base, config.lr_base_size, scale)
    return config


def build_optimizer(config: TrainConfig, module: torch.nn.Module, *, sharded: bool = False) -> torch.optim.Optimizer:
    """Build timm's optimizer for student and heads, without weight decay where timm or the model exclude it.

    SGD, Adam and AdamW are torch's fused forms. With `head_lr`, the groups of the classifier's parameters have
    "classifier": True.

    Args:
        config: Settings.
        module: Student and heads.
        sharded: Whether FSDP2 will shard the module; torch's fused SGD does not support that.

    Raises:
        ConfigError: timm has no such optimizer, or it does not support these settings.
    """
    if config.optimizer not in list_optimizers():
        hint = did_you_mean(config.optimizer, list_optimizers(), "expected a timm optimizer, such as adamw or sgd")
        raise ConfigError(f"`optimizer` is {config.optimizer!r}; {hint}")
    if get_optimizer_info(config.optimizer).second_order:
        raise ConfigError(
            f"`optimizer` {config.optimizer} needs second derivatives, which training does not compute; choose one "
            "without, such as adamw or lamb"
        )
    arguments = {
        "momentum": config.momentum,
        "layer_decay": config.layer_decay,
        **_optimizer_arguments(config, sharded),
    }
    groups = None if config.head_lr is None else partial(_groups_with_head, config, config.head_lr)
    try:
        optimizer: torch.optim.Optimizer = create_optimizer_v2(
            module, config.optimizer, config.lr, config.weight_decay, param_group_fn=groups, **arguments
        )
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"`optimizer` {config.optimizer} does not support these settings: {one_line(error)}"
        ) from error
    return optimizer


def _optimizer_arguments(config: TrainConfig, sharded: bool) -> dict[str, Any]:
    """Return the optimizer's own arguments: those that are set, and torch's fused form where there is one.

    Raises:
        ConfigError: The optimizer has no epsilon or not that many betas, which timm would accept.
    """
    info = get_optimizer_info(config.optimizer)
    for name, given, used in (
        ("opt_betas", bool(config.opt_betas), info.has_betas),
        ("opt_eps", config.opt_eps is not None, info.has_eps),
    ):
        if given and not used:
            raise ConfigError(f"`{name}`: `optimizer` {config.optimizer} does not use it; leave it out")
    optimizer = get_optimizer_class(config.optimizer, bind_defaults=False)
    betas = getattr(signature(optimizer).parameters.get("betas"), "default", None)
    if config.opt_betas and isinstance(betas, tuple) and len(betas) != len(config.opt_betas):
        raise ConfigError(f"`opt_betas` has {len(config.opt_betas)} values; expected {len(betas)}, such as {betas}")
    arguments: dict[str, Any] = {"betas": config.opt_betas} if config.opt_betas else {}
    arguments |= {} if config.opt_eps is None else {"eps": config.opt_eps}
    arguments |= json.loads(json.dumps(config.opt_kwargs))  # a copy
    if "kron" in config.optimizer and several_processes():
        # Else it draws from the global generator, which is another one in each process, and the weights drift apart.
        if not arguments.setdefault("deterministic", True):
            raise ConfigError(
                "`opt_kwargs` deterministic=False: in several processes, kron has to draw the same random numbers in "
                "all of them; leave it out"
            )
        if "deterministic" not in config.opt_kwargs:
            _log.info("`optimizer` kron: deterministic=True, so that all processes draw the same random numbers")
    fused = optimizer in _FUSED and not _NOT_FUSED & arguments.keys()
    if fused and not (sharded and optimizer is torch.optim.SGD):
        arguments["fused"] = True
    return arguments


def skips_by_itself(optimizer: Any) -> bool:
    """Return whether the optimizer skips a step whose gradients are not finite on the device: torch's fused ones do."""
    return all(group.get("fused") for group in optimizer.param_groups)


def _groups_with_head(config: TrainConfig, head_lr: float, module: torch.nn.Module) -> list[dict[str, Any]]:
    """Split timm's parameter groups: the classifier's get `head_lr`, as the scale that timm's schedules apply."""
    excluded: Any = getattr(module, "no_weight_decay", set)()
    if config.layer_decay is None:
        groups = param_groups_weight_decay(module, config.weight_decay, no_weight_decay_list=excluded)
    else:
        groups = param_groups_layer_decay(
            module, config.weight_decay, no_weight_decay_list=excluded, layer_decay=config.layer_decay
        )
    head = {id(parameter) for parameter in classifier_parameters(getattr(module, "student", module)).values()}
    split = []
    for group in groups:
        of_head = [parameter for parameter in group["params"] if id(parameter) in head]
        others = [parameter for parameter in group["params"] if id(parameter) not in head]
        split += [{**group, "params": others}] if others else []
        scale = {"lr_scale": head_lr / config.lr, "classifier": True}
        split += [{**group, "params": of_head, **scale}] if of_head else []
    return split


def build_scheduler(config: TrainConfig, optimizer: Any, steps_per_epoch: int) -> Any:
    """Build timm's learning rate scheduler, to be updated after every optimizer step.

    Raises:
        ConfigError: timm rejects the schedule for this number of steps.
    """
    warmup = min(1.0, config.epochs / 2) if config.warmup_epochs is None else config.warmup_epochs
    try:
        scheduler, _ = create_scheduler_v2(
            optimizer,
            config.schedule,
            num_epochs=config.epochs,
            warmup_epochs=warmup,
            warmup_lr=config.lr * 1e-3 if config.warmup_lr is None else config.warmup_lr,
            min_lr=config.min_lr,
            decay_epochs=config.decay_epochs,
            decay_milestones=list(config.decay_milestones),
            decay_rate=config.decay_rate,
            step_on_epochs=False,
            updates_per_epoch=steps_per_epoch,
        )
    except ValueError as error:
        raise ConfigError(f"`schedule` {config.schedule} cannot be built: {one_line(error)}") from error
    return scheduler
