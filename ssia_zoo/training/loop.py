"""The training run, top to bottom: data, model, task, then epochs of optimizer steps, then the model's folder."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.utils import set_seed, tqdm
from timm.task import TrainingTask
from timm.task.evaluator import ClassificationEvaluator
from timm.utils.model import unwrap_model
from torch import Tensor

from ssia_zoo.data import eval_loader, load_image_data, train_loader
from ssia_zoo.errors import ConfigError, TrainingError
from ssia_zoo.features import TimmModel, evaluating
from ssia_zoo.training.checkpoint import Position, load_checkpoint, save_checkpoint
from ssia_zoo.training.config import TrainConfig
from ssia_zoo.training.methods import create_task
from ssia_zoo.training.output import RunFolder, flat_settings
from ssia_zoo.training.setup import (
    Batch,
    build_accelerator,
    build_model,
    build_optimizer,
    build_scheduler,
    seeded_mixup,
    setup_logging,
)

_MAX_SKIPPED_IN_A_ROW = 20
_RECORDS_PER_EPOCH = 10
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """What a run came to."""

    folder: Path
    """config.json, model.safetensors, README.md, train_config.yaml, metrics.jsonl, curves.png, checkpoints/"""
    metrics: dict[str, float]
    """"top1" and "top5" in percent and "loss", of the saved weights on the evaluation split, in float32"""
    seconds: float


@dataclass
class _Run:
    """The parts that an epoch needs."""

    config: TrainConfig
    accelerator: Accelerator
    task: TrainingTask
    optimizer: Any
    scheduler: Any
    mixup: Callable[[Batch, int], Batch] | None
    folder: RunFolder
    position: Position
    steps_per_epoch: int
    total_steps: int
    skipped_in_a_row: int = 0


def train(config: TrainConfig) -> TrainResult:
    """Train as `config` says; every process of a distributed run calls this.

    Raises:
        SSIAZooError: If a setting, the data, the model or a checkpoint cannot be used, or training diverges.
    """
    start = time.monotonic()
    accelerator = build_accelerator(config)
    setup_logging(accelerator)
    folder = RunFolder(config, accelerator)
    try:
        return _train(config, accelerator, folder, start)
    finally:
        folder.release()


def _train(config: TrainConfig, accelerator: Accelerator, folder: RunFolder, start: float) -> TrainResult:
    data = load_image_data(config)
    set_seed(config.seed)
    model, preprocessing = build_model(config, len(data.label_names))
    config = replace(config, image_size=preprocessing.input_size[1])
    folder.describe(data, preprocessing)
    task = create_task(model, config, preprocessing.input_size).to(accelerator.device)
    if config.ema is not None:
        task.setup_ema(config.ema, use_warmup=True)
    optimizer: Any = build_optimizer(config, task.trainable_module)
    statistics = {"mean": preprocessing.mean, "std": preprocessing.std}
    batches: Any = train_loader(data, config, seed=config.seed, **statistics)
    eval_batches: Any = eval_loader(data, config, **statistics)
    task.trainable_module, optimizer, batches, eval_batches = accelerator.prepare(
        task.trainable_module, optimizer, batches, eval_batches
    )
    steps_per_epoch = len(batches) // config.accumulation_steps
    if steps_per_epoch < 1:
        raise ConfigError(
            f"{len(data.train)} training images are fewer than one optimizer step takes: --batch-size "
            f"{config.batch_size} x --accumulation-steps {config.accumulation_steps} x {accelerator.num_processes} "
            "processes; lower one of them"
        )
    scheduler = build_scheduler(config, optimizer, steps_per_epoch)
    position = Position()
    accelerator.register_for_checkpointing(position, scheduler)
    if config.ema is not None:
        accelerator.register_for_checkpointing(task.trainable_module_ema)
    set_seed(config.seed, device_specific=True)  # dropout differs between processes, and is part of a checkpoint
    if folder.resume_from is not None:
        load_checkpoint(accelerator, folder.resume_from)
        _log.info("resumed %s at step %d", folder.resume_from, position.step)
    folder.begin(position.step)
    if config.with_tracking:
        accelerator.init_trackers("ssia_zoo", config=flat_settings(config))

    total_steps = min(config.epochs * steps_per_epoch, config.max_steps or config.epochs * steps_per_epoch)
    mixup = seeded_mixup(config, len(data.label_names), accelerator.process_index)
    run = _Run(config, accelerator, task, optimizer, scheduler, mixup, folder, position, steps_per_epoch, total_steps)
    _log.info(
        "%s, %s: %d images, %d classes, global batch %d, %d steps on %d x %s",
        *(config.model, config.method, len(data.train), len(data.label_names)),
        config.batch_size * config.accumulation_steps * accelerator.num_processes,
        *(total_steps, accelerator.num_processes, accelerator.device.type),
    )
    student = unwrap_model(task.get_eval_model(ema=config.ema is not None))
    metrics: dict[str, float] = {}
    while position.step < total_steps:
        _train_epoch(run, batches)
        metrics = {}
        intervals = (config.val_interval, config.push_every)  # what is pushed states what it scores
        if position.step == total_steps or any(n and position.epoch % n == 0 for n in intervals):
            metrics = evaluate(student, eval_batches, accelerator, config.channels_last)
            _report_epoch(run, metrics)
        if position.step % (config.checkpoint_every or 1) == 0 or position.step == total_steps:
            _save_checkpoint(run)
        if config.push_every and position.epoch % config.push_every == 0 and position.step < total_steps:
            folder.save_model(student, metrics)
            folder.push(f"epoch {position.epoch}, step {position.step}: top-1 {metrics['top1']:.2f} %")
    accelerator.unwrap_model(task.trainable_module, keep_fp32_wrapper=False)  # takes Accelerate's autocast off
    if not metrics or config.mixed_precision != "no":  # what is stated of the saved weights is measured in float32
        metrics = evaluate(student, eval_batches, accelerator, config.channels_last, autocast=False)
    folder.save_model(student, metrics)
    _log.info("%s: top-1 %.2f %% on %s; %s", folder.path, metrics["top1"], data.eval_name, folder.path / "README.md")
    folder.finish()
    accelerator.end_training()
    return TrainResult(folder.path, metrics, time.monotonic() - start)


def _train_epoch(run: _Run, batches: Any) -> None:
    """One pass over the training split, or what is left of it; ends on an optimizer step."""
    config, accelerator, task, position = run.config, run.accelerator, run.task, run.position
    batches.set_epoch(position.epoch)
    task.train()
    usable = run.steps_per_epoch * config.accumulation_steps  # a tail that makes no whole step is left out
    remaining = skip_first_batches(batches, position.batches) if position.batches else batches
    progress = tqdm(
        total=run.steps_per_epoch,
        initial=position.batches // config.accumulation_steps,
        desc=f"epoch {position.epoch + 1}/{config.epochs}",
        unit="step",
        leave=False,
    )
    every = math.ceil(run.steps_per_epoch / _RECORDS_PER_EPOCH)
    sums: dict[str, Tensor] = {}
    counted, since = 0, time.monotonic()
    for images, labels in remaining:
        if position.batches >= usable:
            continue  # to the loader's own end, which Accelerate wants to see
        if position.step >= run.total_steps:
            break
        if run.mixup is not None:
            images, labels = run.mixup((images, labels), position.epoch * len(batches) + position.batches)
        if config.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        task.progress = position.step / run.total_steps  # lambda's schedule reads it; timm's own tasks do not
        with accelerator.accumulate(task.trainable_module):
            result = task(images, labels)
            accelerator.backward(result["loss"])
            for name, value in result.items():
                if name != "output":
                    sums[name] = sums.get(name, 0) + value.detach()
            counted += 1
            position.batches += 1
            if not accelerator.sync_gradients:
                continue
            norm = _clipped_norm(run)
            finite = math.isfinite(norm)  # equal in every process: gradients are averaged by now
            if finite or accelerator.scaler is not None:  # a scaler skips the step itself, and learns from it
                run.optimizer.step()
            run.optimizer.zero_grad()
        run.skipped_in_a_row = 0 if finite else run.skipped_in_a_row + 1
        position.skipped += not finite
        if not finite:
            _stop_if_hopeless(run)
        position.step += 1
        learning_rate = max(group["lr"] for group in run.optimizer.param_groups)
        run.scheduler.step_update(position.step)
        task.update_ema(step=position.step)
        progress.update()
        ends = position.batches == usable or position.step == run.total_steps
        if (position.batches // config.accumulation_steps) % every == 0 or ends:
            seconds = time.monotonic() - since
            values = {name: float(total) / counted for name, total in sums.items()}
            speed = counted * config.batch_size * accelerator.num_processes / seconds
            progress.set_postfix_str(f"loss {values['loss']:.3f}, {speed:.0f} images/s")
            _record_training(run, values, learning_rate, speed)
            sums, counted, since = {}, 0, time.monotonic()
        due = config.checkpoint_every and position.step % config.checkpoint_every == 0
        if due and position.batches < usable:  # at an epoch's end it waits for the evaluation
            _save_checkpoint(run)
    progress.close()
    if position.batches >= usable:
        position.epoch, position.batches = position.epoch + 1, 0


def _clipped_norm(run: _Run) -> float:
    """Total norm of the gradients; student and heads are clipped apart, so that a control is clipped alike."""
    if run.config.clip_grad is None:
        gradients = (p.grad for p in run.task.trainable_module.parameters() if p.grad is not None)
        return float(torch.nn.utils.get_total_norm(gradients))
    run.accelerator.unscale_gradients()
    student = list(unwrap_model(run.task.get_eval_model()).parameters())
    of_student = {id(parameter) for parameter in student}
    heads = [p for p in run.task.trainable_module.parameters() if id(p) not in of_student]
    norms = [torch.nn.utils.clip_grad_norm_(part, run.config.clip_grad) for part in (student, heads) if part]
    return float(torch.stack(norms).norm())


def _is_finite(module: torch.nn.Module) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in module.state_dict().values())


def _stop_if_hopeless(run: _Run) -> None:
    """Give up on a run whose steps are skipped without end, or whose running statistics a bad batch has spoiled."""
    checkpoints = f"the last good checkpoint, if there is one, is in {run.folder.checkpoints}"
    if run.skipped_in_a_row >= _MAX_SKIPPED_IN_A_ROW:
        raise TrainingError(
            f"gradients were not finite in {run.skipped_in_a_row} steps in a row, up to step {run.position.step}; "
            f"lower --lr or set --clip-grad; {checkpoints}"
        )
    if not all(bool(torch.isfinite(buffer).all()) for buffer in run.task.trainable_module.buffers()):
        raise TrainingError(
            f"a batch at step {run.position.step} was not finite and spoiled the model's running statistics; look for "
            f"a bad image, or lower --lr; {checkpoints}"
        )


def _save_checkpoint(run: _Run) -> None:
    """Save the run's state, unless it is spoiled: a checkpoint is there to go back to."""
    if not _is_finite(run.task.trainable_module):
        _log.warning("step %d: weights are not finite; no checkpoint is written", run.position.step)
        return
    keep, experiment = run.config.keep_checkpoints, run.folder.config.experiment()
    save_checkpoint(run.accelerator, run.folder.checkpoints, run.position.step, keep, experiment)


def _record_training(run: _Run, values: dict[str, float], learning_rate: float, images_per_second: float) -> None:
    position = run.position
    values.setdefault("task_loss", values["loss"])
    values["lr"] = learning_rate
    if run.config.method == "ssia":
        values["lambda"] = run.config.ssia.weight_at((position.step - 1) / run.total_steps)
    run.folder.record(
        "train",
        epoch=position.epoch + position.batches / (run.steps_per_epoch * run.config.accumulation_steps),
        step=position.step,
        **values,
        images_per_second=round(images_per_second, 1),
        skipped=position.skipped,
    )
    if run.config.with_tracking:
        run.accelerator.log({f"train/{name}": value for name, value in values.items()}, step=position.step)


def _report_epoch(run: _Run, metrics: dict[str, float]) -> None:
    position = run.position
    run.folder.record("eval", epoch=position.step / run.steps_per_epoch, step=position.step, **metrics)
    if run.config.with_tracking:
        run.accelerator.log({f"eval/{name}": value for name, value in metrics.items()}, step=position.step)
    epoch = math.ceil(position.step / run.steps_per_epoch)
    skipped = f", {position.skipped} steps skipped as not finite" if position.skipped else ""
    values = (epoch, run.config.epochs, metrics["top1"], metrics["loss"], skipped)
    _log.info("epoch %d/%d: top-1 %.2f %%, loss %.4f%s", *values)


def evaluate(
    model: TimmModel, batches: Any, accelerator: Accelerator, channels_last: bool = False, autocast: bool = True
) -> dict[str, float]:
    """Measure a model on all images of a prepared loader, each counted once whatever the number of processes.

    Args:
        model: A timm classifier; its modes are put back afterwards.
        batches: Loader of images [B, C, H, W] and labels [B], prepared by `accelerator`.
        accelerator: Gives precision and processes.
        channels_last: Whether to lay images out that way.
        autocast: Whether to run in the accelerator's mixed precision, as in training; else in float32.

    Returns:
        "top1" and "top5" in percent, and "loss", the mean cross-entropy.
    """
    evaluator = ClassificationEvaluator(device=accelerator.device)
    if accelerator.num_processes > 1:  # batch statistics are each process's own; the main process's are saved
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, src=0)
    with evaluating(model), torch.inference_mode():
        for images, labels in batches:
            if channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            with accelerator.autocast() if autocast else nullcontext():
                logits = model(images)
            evaluator.update(*accelerator.gather_for_metrics((logits.float(), labels)))
    return dict(evaluator.compute())
