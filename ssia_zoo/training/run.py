"""A run put together: data, model, task, optimizer and schedule, each process's share prepared by Accelerate."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from timm.task import TrainingTask
from timm.utils.model import unwrap_model

from ssia_zoo.data import ImageData, eval_loader, load_image_data, share_loader, train_loader
from ssia_zoo.errors import ConfigError
from ssia_zoo.models.features import TimmModel
from ssia_zoo.training.checkpoint import Position, load_checkpoint
from ssia_zoo.training.config import TrainConfig
from ssia_zoo.training.folder import RunFolder, flat_settings
from ssia_zoo.training.fsdp import gather, whole_copy
from ssia_zoo.training.machine import build_model
from ssia_zoo.training.methods import create_task
from ssia_zoo.training.mixup import Mixing, build_mixing
from ssia_zoo.training.optimization import build_optimizer, build_scheduler
from ssia_zoo.training.signals import StopSignals

_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Run:
    """The parts that an epoch needs."""

    config: TrainConfig
    accelerator: Accelerator
    data: ImageData
    task: TrainingTask
    whole: TimmModel | None
    """under FSDP2 a copy of the student, into which its shards are gathered"""
    batches: Any
    eval_batches: Any
    optimizer: Any
    scheduler: Any
    mixing: Mixing | None
    folder: RunFolder
    position: Position
    steps_per_epoch: int
    total_steps: int
    stop: StopSignals
    stop_signal: int = 0
    """the signal by which all processes have agreed to stop after this step, or 0"""
    loss_lost: torch.Tensor
    """whether a loss of this optimizer step was not finite, in this process"""

    def whole_student(self) -> TimmModel:
        """What is evaluated and saved: the bare model, or its moving average; every process must call this."""
        student = unwrap_model(self.task.get_eval_model(ema=self.config.ema is not None))
        if self.whole is None:
            return student
        gather(student, self.whole)
        return self.whole


def prepare_run(config: TrainConfig, accelerator: Accelerator, folder: RunFolder, stop: StopSignals) -> Run:
    """Build all parts of a run, at its beginning or where its checkpoint left it.

    Raises:
        SSIAZooError: If a setting, the data, the model or a checkpoint cannot be used.
    """
    data = load_image_data(config)
    set_seed(config.seed)
    model, preprocessing = build_model(config, len(data.label_names), data.label_names)
    config = preprocessing.applied_to(config)
    folder.describe(data, preprocessing)
    task = create_task(model, config, preprocessing.input_size, len(data.train)).to(accelerator.device)
    if config.ema is not None:
        task.setup_ema(config.ema, use_warmup=config.ema_warmup)
    whole = whole_copy(accelerator, model)
    optimizer: Any = build_optimizer(config, task.trainable_module)
    mean, std = preprocessing.mean, preprocessing.std
    loader = train_loader(data, config, mean=mean, std=std, seed=config.seed, device=accelerator.device)
    batches = share_loader(loader, accelerator)
    task.trainable_module, optimizer, eval_batches = accelerator.prepare(
        task.trainable_module, optimizer, eval_loader(data, config, mean=mean, std=std)
    )
    steps_per_epoch = _steps_per_epoch(config, len(data.train), len(batches), accelerator.num_processes)
    scheduler = build_scheduler(config, optimizer, steps_per_epoch)
    position = Position()
    accelerator.register_for_checkpointing(position, scheduler, data.unreadable_train)
    if config.ema is not None:
        accelerator.register_for_checkpointing(task.trainable_module_ema)
    if (memory := getattr(task, "memory", None)) is not None:
        memory.table = memory.table.to(accelerator.device)
        accelerator.register_for_checkpointing(memory)
    set_seed(config.seed, device_specific=True)  # dropout differs between processes, and is part of a checkpoint
    if folder.resume_from is not None:
        schedule = scheduler.state_dict()  # of these settings, which may have more epochs than the checkpoint's
        load_checkpoint(accelerator, folder.resume_from)
        scheduler.load_state_dict(schedule)
        scheduler.step_update(position.step)
        _log.info("resumed %s at step %d", folder.resume_from, position.step)
    folder.begin(position.step)
    if config.with_tracking:
        accelerator.init_trackers("ssia_zoo", config=flat_settings(config))
    total_steps = min(config.epochs * steps_per_epoch, config.max_steps or config.epochs * steps_per_epoch)
    _log.info(
        "%s, %s: %d images, %d classes, global batch %d, %d steps on %d x %s",
        *(config.model, config.method, len(data.train), len(data.label_names)),
        config.batch_size * config.batches_per_step * accelerator.num_processes,
        *(total_steps, accelerator.num_processes, accelerator.device.type),
    )
    return Run(
        config=config,
        accelerator=accelerator,
        data=data,
        task=task,
        whole=whole,
        batches=batches,
        eval_batches=eval_batches,
        optimizer=optimizer,
        scheduler=scheduler,
        mixing=build_mixing(config, len(data.label_names), accelerator.process_index),
        folder=folder,
        position=position,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        stop=stop,
        loss_lost=torch.zeros((), dtype=torch.bool, device=accelerator.device),
    )


def _steps_per_epoch(config: TrainConfig, images: int, batches: int, processes: int) -> int:
    steps = batches // config.batches_per_step
    if steps < 1:
        raise ConfigError(
            f"{images} training images are fewer than one optimizer step takes: --batch-size {config.batch_size} x "
            f"--accumulation-steps {config.batches_per_step} x {processes} processes; lower one of them"
        )
    return steps
