"""Optimizer and learning rate schedule, both timm's."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import torch
from timm.optim import create_optimizer_v2, list_optimizers
from timm.scheduler import create_scheduler_v2

from ssia_zoo.errors import ConfigError
from ssia_zoo.training.config import TrainConfig


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
            module, config.optimizer, config.lr, config.weight_decay, momentum=config.momentum
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
            warmup_lr=config.lr * 1e-3,
            min_lr=config.min_lr,
            step_on_epochs=False,
            updates_per_epoch=steps_per_epoch,
        )
    except ValueError as error:
        raise ConfigError(f"--schedule {config.schedule} cannot be made: {' '.join(str(error).split())}") from error
    return scheduler
