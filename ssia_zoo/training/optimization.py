"""Optimizer, learning rate and its schedule, all timm's."""

from __future__ import annotations

import logging
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

import torch
from timm.optim import create_optimizer_v2, list_optimizers
from timm.scheduler import create_scheduler_v2

from ssia_zoo.errors import ConfigError
from ssia_zoo.training.config import TrainConfig

_log = logging.getLogger(__name__)


def with_scaled_lr(config: TrainConfig, processes: int) -> TrainConfig:
    """Compute `lr` from `lr_base` and the global batch, as timm's train.py does; as it is, if there is no `lr_base`."""
    if config.lr_base is None:
        return config
    ratio = config.batch_size * config.batches_per_step * processes / config.lr_base_size
    name = config.optimizer.lower()
    scale = config.lr_base_scale or ("sqrt" if "ada" in name or "lamb" in name else "linear")
    config = replace(config, lr=config.lr_base * (ratio**0.5 if scale == "sqrt" else ratio))
    if config.min_lr > config.lr:
        raise ConfigError(f"--min-lr is {config.min_lr}; expected at most the --lr {config.lr:g} made of --lr-base")
    _log.info("learning rate %g: %g for a batch of %d, %s", config.lr, config.lr_base, config.lr_base_size, scale)
    return config


def build_optimizer(config: TrainConfig, module: torch.nn.Module) -> torch.optim.Optimizer:
    """Make timm's optimizer over student and heads, without weight decay where timm and the model want none.

    Raises:
        ConfigError: If timm has no such optimizer, or it does not take these settings.
    """
    if config.optimizer not in list_optimizers():
        near = get_close_matches(config.optimizer, list_optimizers(), n=3)
        raise ConfigError(f"--optimizer is {config.optimizer!r}; did you mean {', '.join(near) or 'adamw or sgd'}?")
    try:
        optimizer: torch.optim.Optimizer = create_optimizer_v2(
            module,
            config.optimizer,
            config.lr,
            config.weight_decay,
            momentum=config.momentum,
            layer_decay=config.layer_decay,
        )
    except (ValueError, TypeError) as error:
        raise ConfigError(f"--optimizer {config.optimizer} does not take these settings: {error}") from error
    return optimizer


def build_scheduler(config: TrainConfig, optimizer: Any, steps_per_epoch: int) -> Any:
    """Make timm's learning rate schedule, which moves after every optimizer step.

    Raises:
        ConfigError: If timm cannot make it for so few steps.
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
        raise ConfigError(f"--schedule {config.schedule} cannot be made: {' '.join(str(error).split())}") from error
    return scheduler
