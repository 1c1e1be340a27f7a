"""Assemble a run: data, model, task, optimizer and schedule, prepared by Accelerate and resumed if asked."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from timm.task import TrainingTask
from timm.utils import unwrap_model

from ssia_zoo.data import (
    DeviceTransform,
    ImageData,
    ImageStream,
    eval_loader,
    load_image_data,
    share_loader,
    train_loader,
)
from ssia_zoo.data.channels import report_conversions
from ssia_zoo.data.preprocessing import Preprocessing
from ssia_zoo.data.sampling import EpochSampler
from ssia_zoo.data.streaming import StreamSampler
from ssia_zoo.errors import ConfigError, TrainingError, one_line
from ssia_zoo.models.features import TimmModel
from ssia_zoo.training.batch_norm import EvaluationStatistics, evaluation_statistics
from ssia_zoo.training.checkpoint import TrainState
from ssia_zoo.training.class_balance import class_weights, report_imbalance
from ssia_zoo.training.config import TrainConfig
from ssia_zoo.training.elastic import align
from ssia_zoo.training.fingerprint import fingerprint
from ssia_zoo.training.folder import RunFolder
from ssia_zoo.training.fsdp import gather, unsharded_copy
from ssia_zoo.training.health import StepHealth
from ssia_zoo.training.lora import merged
from ssia_zoo.training.methods import check_multi_label, create_task, with_lambda
from ssia_zoo.training.mixup import Mixing, build_mixing
from ssia_zoo.training.model import build_model, train_input_size
from ssia_zoo.training.optimization import build_optimizer, build_scheduler
from ssia_zoo.training.selection import Selection, build_selection
from ssia_zoo.training.signals import StopSignals
from ssia_zoo.training.snapshot import Checkpointed
from ssia_zoo.training.utilization import peak_flops, training_flops

_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Run:
    """The parts that an epoch needs."""

    config: TrainConfig
    accelerator: Accelerator
    data: ImageData
    task: TrainingTask
    unsharded: TimmModel | None
    """under FSDP2 a copy of the student, into which its shards are gathered"""
    batches: Any
    order: EpochSampler | StreamSampler
    """of `batches`: its `start` leaves out the images of an epoch that are done"""
    on_device: DeviceTransform
    """makes a batch of `batches` the model's input"""
    eval_batches: Any
    optimizer: Any
    scheduler: Any
    mixing: Mixing | None
    folder: RunFolder
    state: TrainState
    checkpointed: Checkpointed
    selection: Selection | None
    """the best evaluation so far, with `keep_best` or `patience`"""
    statistics: EvaluationStatistics | None
    """BatchNorm's, if training images are smaller than those of evaluation"""
    steps_per_epoch: int
    total_steps: int
    """the last step, as `state.step` counts"""
    stop: StopSignals
    health: StepHealth
    flops_per_image: int | None
    """of training; None unless the peak of the device is known"""

    @property
    def position(self) -> int:
        """Steps in the schedule: those taken, in units of the present global batch."""
        return self.state.step + self.state.shift

    @property
    def progress(self) -> float:
        """Fraction of all epochs done, by which the method changes."""
        return self.progress_at(self.position)

    def progress_at(self, position: int) -> float:
        """Return the progress at a position; like the learning rate's schedule, it is not changed by `max_steps`."""
        return position / (self.config.epochs * self.steps_per_epoch)

    def unsharded_student(self) -> TimmModel:
        """Return the model to evaluate and save: the student or its moving average; every process must call this."""
        student = unwrap_model(self.task.get_eval_model(ema=self.config.ema is not None))
        if self.config.lora is not None:
            student = merged(student)
        if self.unsharded is not None:
            gather(student, self.unsharded)
            student = self.unsharded
        if self.statistics is not None:
            self.statistics.refresh(student)
        return student


def prepare_run(config: TrainConfig, accelerator: Accelerator, folder: RunFolder, stop: StopSignals) -> Run:
    """Build all parts of a run, in their initial state or that of its checkpoint.

    Raises:
        SSIAZooError: If a setting, the data, the model or a checkpoint cannot be used.
    """
    data = load_image_data(config)
    if data.multi_label:
        check_multi_label(config)
    selection, weights = build_selection(config, data), class_weights(config, data)
    set_seed(config.seed)
    model, preprocessing = build_model(config, len(data.label_names), data.label_names)
    report_conversions(data.eval, data.image_column, preprocessing.input_size[0])
    config = preprocessing.applied_to(with_lambda(config, model))
    statistics = evaluation_statistics(config, model, data, preprocessing)
    folder.describe(data, preprocessing, config.ssia, weights)
    task = build_task(config, model, preprocessing, data, accelerator, weights)
    unsharded = unsharded_copy(accelerator, model)
    flops = (
        training_flops(model, train_input_size(config, preprocessing))
        if peak_flops(config, accelerator.device)
        else None
    )
    optimizer: Any = build_optimizer(config, task.get_trainable_module(), sharded=accelerator.is_fsdp2)
    mean, std = preprocessing.mean, preprocessing.std
    loader = train_loader(data, config, mean=mean, std=std, seed=config.seed, device=accelerator.device)
    order: Any = loader.sampler
    readable = None if isinstance(data.train, ImageStream) else order
    folder.fingerprint = fingerprint(model, readable, folder.identity) if folder.is_main else {}
    batches = share_loader(loader, accelerator)
    # Accelerate wraps the module for DDP or FSDP2, in place of timm's task.prepare_distributed, and compiles it.
    task.trainable_module, optimizer, eval_batches = accelerator.prepare(
        task.trainable_module, optimizer, eval_loader(data, config, mean=mean, std=std)
    )
    steps_per_epoch = _steps_per_epoch(config, len(data.train), len(batches), accelerator.num_processes)
    scheduler = build_scheduler(config, optimizer, steps_per_epoch)
    state = TrainState()
    possible = {
        **{"train": state, "unreadable": data.unreadable_train, "selection": selection},
        **{"ema": task.get_trainable_module(ema=True), "memory": getattr(task, "memory", None)},
    }
    parts = {name: part for name, part in possible.items() if part is not None}
    checkpointed = Checkpointed(accelerator, task.trainable_module, optimizer, parts)
    set_seed(config.seed, device_specific=True)  # dropout differs between processes; a checkpoint restores it
    if folder.resume_from is not None:
        _resume(checkpointed, folder.resume_from, config.seed, state)
        if folder.batch.images != folder.batch_before:
            align(state, len(data.train), folder.batch.images, steps_per_epoch)
        scheduler.step_update(state.step + state.shift)
    folder.begin(accelerator, state.step)
    all_steps = config.epochs * steps_per_epoch - state.shift
    total_steps = min(all_steps, config.max_steps or all_steps)
    _log.info(
        "%s, %s: %d images, %d classes, global batch %d, %d steps on %d x %s",
        *(config.model, config.method, len(data.train), len(data.label_names)),
        folder.batch.images,
        *(total_steps, accelerator.num_processes, accelerator.device.type),
    )
    report_imbalance(config, data)
    return Run(
        config=config,
        accelerator=accelerator,
        data=data,
        task=task,
        unsharded=unsharded,
        batches=batches,
        order=order,
        on_device=DeviceTransform(config, mean, std),
        eval_batches=eval_batches,
        optimizer=optimizer,
        scheduler=scheduler,
        mixing=build_mixing(config, len(data.label_names), accelerator.process_index, multi_label=data.multi_label),
        folder=folder,
        state=state,
        checkpointed=checkpointed,
        selection=selection,
        statistics=statistics,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        stop=stop,
        flops_per_image=flops,
        health=StepHealth(state, accelerator.device, accelerator.num_processes),
    )


def build_task(
    config: TrainConfig,
    model: TimmModel,
    preprocessing: Preprocessing,
    data: ImageData,
    accelerator: Accelerator,
    weights: torch.Tensor | None,
) -> TrainingTask:
    """Build the training task for these images on the run's device, with its moving average."""
    size, images = train_input_size(config, preprocessing), len(data.train)
    task = create_task(
        model, config, size, images, weights, multi_label=data.multi_label, label_names=data.label_names
    ).to(accelerator.device)
    if config.ema is not None:
        task.setup_ema(config.ema, use_warmup=config.ema_warmup)
    return task


def _resume(checkpointed: Checkpointed, checkpoint: Path, seed: int, state: TrainState) -> None:
    """Load a checkpoint; the schedule stays this run's, which may have more epochs.

    Raises:
        TrainingError: If the checkpoint does not fit this run.
    """
    try:
        checkpointed.load(checkpoint)
        checkpointed.load_random_state(checkpoint, seed, state.step)
    except Exception as error:  # each part has its own errors
        raise TrainingError(
            f"{checkpoint} cannot be loaded ({type(error).__name__}: {one_line(error, 200)}); "
            "give the path of an earlier one, --resume PATH"
        ) from error
    _log.info("resumed %s at step %d", checkpoint, state.step)


def _steps_per_epoch(config: TrainConfig, images: int, batches: int, processes: int) -> int:
    steps = batches // config.batches_per_step
    if steps < 1:
        raise ConfigError(
            f"{images} training images are too few for one optimizer step of `batch_size` {config.batch_size} x "
            f"`accumulation_steps` {config.batches_per_step} x {processes} processes; lower one of them"
        )
    return steps
