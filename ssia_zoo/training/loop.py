"""The training loop, top to bottom: epochs of optimizer steps, evaluation, checkpoints, then the model's folder."""

from __future__ import annotations

import logging
import signal
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import skip_first_batches
from tqdm.contrib.logging import logging_redirect_tqdm

from ssia_zoo.data.preprocessing import with_default_preprocessing
from ssia_zoo.evaluation.metrics import evaluate, share_buffers
from ssia_zoo.task import AuxiliaryTask
from ssia_zoo.training.config import TrainConfig
from ssia_zoo.training.evaluation import evaluate_only
from ssia_zoo.training.faults import explained
from ssia_zoo.training.folder import RunFolder
from ssia_zoo.training.gradients import is_finite, optimizer_step
from ssia_zoo.training.launcher import resolve_launcher
from ssia_zoo.training.machine import build_accelerator
from ssia_zoo.training.optimization import with_scaled_lr
from ssia_zoo.training.progress import Progress, report_evaluation, summarize
from ssia_zoo.training.run import Run, prepare_run
from ssia_zoo.training.signals import StopSignals, TrainingStopped, agree

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """What a run came to."""

    folder: Path
    """config.json, model.safetensors, README.md, train_config.yaml, metrics.jsonl, curves.png, checkpoints/"""
    metrics: dict[str, float]
    """"top1" and "top5" in percent and "loss", of the saved weights on the evaluation split, in float32"""
    seconds: float


def train(config: TrainConfig) -> TrainResult:
    """Train as `config` says; every process of a distributed run calls this.

    Raises:
        SSIAZooError: If a setting, the data, the model or a checkpoint cannot be used, or training diverges;
            or memory, disk, a loading process or another process of the run gives out.
        TrainingStopped: If SIGTERM, SIGINT or SIGUSR1 stopped it; once it trains, it leaves a checkpoint.
    """
    start = time.monotonic()
    with StopSignals() as stop, explained(config):
        config = resolve_launcher(config)
        accelerator = build_accelerator(config)
        if config.eval_only:
            metrics = evaluate_only(config, accelerator)
            return TrainResult(Path(config.output_dir), metrics, time.monotonic() - start)
        config = with_scaled_lr(config, accelerator.num_processes)
        if not config.pretrained:  # else they are the pretrained model's
            config = with_default_preprocessing(config)
        folder = RunFolder(config, accelerator)
        try:
            run = prepare_run(config, accelerator, folder, stop)
            with closing(Progress(run)) as progress, logging_redirect_tqdm():
                metrics = _train(run, progress)
            summarize(run, metrics, progress, time.monotonic() - start)
        finally:
            folder.release()
    return TrainResult(folder.path, metrics, time.monotonic() - start)


def _train(run: Run, progress: Progress) -> dict[str, float]:
    config, position, accelerator = run.config, run.position, run.accelerator
    metrics: dict[str, float] = {}
    run.stop.deferred = True
    while position.step < run.total_steps or position.epoch_ended:
        if not position.epoch_ended:
            _train_epoch(run, progress)
            # Before the evaluation, so that a run which ends there goes on there.
            if position.step % (config.checkpoint_every or 1) == 0 or position.step == run.total_steps:
                _save_checkpoint(run)
        intervals = (config.val_interval, config.push_every)  # what is pushed states what it scores
        metrics = {}
        if position.step == run.total_steps or any(n and position.epoch % n == 0 for n in intervals):
            metrics = evaluate(
                run.whole_student(),
                run.eval_batches,
                accelerator,
                config.channels_last,
                after_batch=lambda: _stop_if_asked(run),
            )
            report_evaluation(run, metrics)
        if config.push_every and position.epoch % config.push_every == 0 and position.step < run.total_steps:
            run.folder.save_model(run.whole_student(), metrics)
            run.folder.push(f"epoch {position.epoch}, step {position.step}: top-1 {metrics['top1']:.2f} %")
        position.epoch_ended = False
    _stop_if_asked(run)
    run.stop.deferred = False
    progress.close()
    # The bare module: Accelerate's autocast around its forward would round what is measured below.
    run.task.trainable_module = accelerator.unwrap_model(run.task.trainable_module, keep_fp32_wrapper=False)
    student = run.whole_student()
    if not metrics or config.mixed_precision != "no":  # what is stated of the saved weights is measured in float32
        metrics = evaluate(student, run.eval_batches, accelerator, config.channels_last, autocast=False)
    run.folder.save_model(student, metrics)
    run.folder.finish()
    accelerator.end_training()
    return metrics


def _train_epoch(run: Run, progress: Progress) -> None:
    """One pass over the training split, or what is left of it; ends on an optimizer step."""
    config, accelerator, task, position = run.config, run.accelerator, run.task, run.position
    run.batches.set_epoch(position.epoch)
    task.train()
    usable = run.steps_per_epoch * config.batches_per_step  # a tail that makes no whole step is left out
    remaining = skip_first_batches(run.batches, position.batches) if position.batches else run.batches
    progress.start_anew()
    takes_indices = isinstance(task, AuxiliaryTask)  # timm's own tasks do not
    for images, labels, indices in remaining:
        if position.batches >= usable:
            continue  # to the loader's own end, which Accelerate wants to see
        if position.step >= run.total_steps:
            break
        if run.mixing is not None:
            index = position.epoch * len(run.batches) + position.batches
            images, labels = run.mixing((images, labels), position.epoch, index)
        if config.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        task.progress = position.step / run.total_steps  # lambda's schedule reads it; timm's own tasks do not
        with accelerator.accumulate(task.trainable_module):
            with accelerator.autocast():  # for FSDP2; DDP's forward does it itself
                result = task(images, labels, indices) if takes_indices else task(images, labels)
            accelerator.backward(result["loss"])
            run.loss_lost |= ~torch.isfinite(result["loss"].detach())
            if accelerator.sync_gradients:
                optimizer_step(run)
        position.batches += 1
        progress.add(result, labels)
        if not accelerator.sync_gradients:
            continue
        position.step += 1
        progress.step()
        run.scheduler.step_update(position.step)
        task.update_ema(step=position.step)
        if position.batches == usable or position.step == run.total_steps:
            continue
        if config.checkpoint_every and position.step % config.checkpoint_every == 0:
            _save_checkpoint(run)
        if run.stop_signal:
            _stop(run, run.stop_signal)
    position.epoch_ended = True
    if position.batches >= usable:
        position.epoch, position.batches = position.epoch + 1, 0


def _save_checkpoint(run: Run) -> bool:
    """Save the run's state, unless it is spoiled: a checkpoint is there to go back to."""
    module = run.task.trainable_module
    if run.whole is not None:
        share_buffers(module, run.accelerator)  # any process's are saved under FSDP2
    (spoiled,) = agree(run.accelerator, int(not is_finite(module)))
    if spoiled:
        _log.warning("step %d: weights are not finite; no checkpoint is written", run.position.step)
        return False
    run.folder.save_checkpoint(run.accelerator, run.position.step)
    return True


def _stop_if_asked(run: Run) -> None:
    """Stop if a signal has come to any process; every process must call this."""
    (number,) = agree(run.accelerator, run.stop.received)
    if number:
        _stop(run, number)


def _stop(run: Run, number: int) -> None:
    """Write a checkpoint and end the run."""
    there = "there" if _save_checkpoint(run) else "from the last checkpoint, if there is one"
    name, step = signal.Signals(number).name, run.position.step
    raise TrainingStopped(
        number, f"stopped by {name} after step {step}; the same command with --resume auto continues {there}"
    )
