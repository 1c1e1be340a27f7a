"""The training loop: epochs of optimizer steps, evaluation, checkpoints, and the model's folder at the end."""

from __future__ import annotations

import logging
import signal
import time
import traceback
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from tqdm.contrib.logging import logging_redirect_tqdm

from ssia_zoo.allocator import keep_freed_memory
from ssia_zoo.data import warn_of_classes_not_streamed
from ssia_zoo.data.preprocessing import with_default_preprocessing
from ssia_zoo.errors import TrainingError, one_line
from ssia_zoo.evaluation.metrics import evaluate
from ssia_zoo.evaluation.multi_label import build_evaluator
from ssia_zoo.models.metric_names import describe, main_metric
from ssia_zoo.task import AuxiliaryTask
from ssia_zoo.training.arguments import check_config
from ssia_zoo.training.batch_size import fitting_batch_size, resolve_batch_size
from ssia_zoo.training.batches import overlapped
from ssia_zoo.training.config import TrainConfig
from ssia_zoo.training.evaluation import evaluate_only
from ssia_zoo.training.faults import out_of_memory, translate_errors
from ssia_zoo.training.folder import RunFolder
from ssia_zoo.training.freezing import keep_statistics
from ssia_zoo.training.gradients import check_steps, is_finite, optimizer_step
from ssia_zoo.training.launcher import resolve_launcher
from ssia_zoo.training.machine import build_accelerator, fast_kernels
from ssia_zoo.training.optimization import with_scaled_lr
from ssia_zoo.training.probe import train_probe
from ssia_zoo.training.progress import Progress, epochs_begun, report_evaluation, summarize
from ssia_zoo.training.run import Run, prepare_run
from ssia_zoo.training.signals import StopSignals, TrainingStopped, all_reduce_max

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """Result of a run."""

    folder: Path
    """config.json, model.safetensors, README.md, train_config.yaml, metrics.jsonl, curves.png, checkpoints/"""
    metrics: dict[str, float]
    """"top1" and "top5" in percent and "loss" of the saved weights on the evaluation split, in float32; for several
    labels an image, the metrics of `MultiLabelEvaluator`"""
    seconds: float


def train(config: TrainConfig) -> TrainResult:
    """Train a model; in a distributed run, every process must call this. Freed memory then stays in the process.

    Args:
        config: Settings.

    Raises:
        SSIAZooError: If a setting, the data, the model or a checkpoint cannot be used, training diverges, memory or
            disk space runs out, or a data loading worker or another process of the run ends.
        TrainingStopped: If SIGTERM, SIGINT or SIGUSR1 stopped the run; once it trains, it writes a checkpoint first.
    """
    start = time.monotonic()
    check_config(config)
    with StopSignals() as stop, translate_errors(config):
        config = resolve_launcher(config)
        accelerator = build_accelerator(config)
        if not (config.eval_only or config.probe):
            config = resolve_batch_size(config, accelerator)
        keep_freed_memory()  # not before that search, which needs the memory of a batch that did not fit
        if config.eval_only:
            metrics = evaluate_only(config, accelerator)
            return TrainResult(Path(config.output_dir), metrics, time.monotonic() - start)
        if config.probe:
            metrics = train_probe(config, accelerator)
            return TrainResult(Path(config.output_dir), metrics, time.monotonic() - start)
        folder = RunFolder(config, accelerator)
        try:
            config = with_scaled_lr(folder.config, accelerator.num_processes)
            if not config.pretrained:  # else the pretrained model's preprocessing is used
                config = with_default_preprocessing(config)
            folder.check_settings(config)
            metrics = _run(config, accelerator, folder, stop, start)
        except torch.OutOfMemoryError as error:  # of a GPU
            traceback.clear_frames(error.__traceback__)  # they hold the run's tensors
            accelerator.free_memory()
            fitting = fitting_batch_size(config, accelerator)
            raise TrainingError(out_of_memory(one_line(error), config, fitting)) from error
        finally:
            folder.release()
    return TrainResult(folder.path, metrics, time.monotonic() - start)


def _run(
    config: TrainConfig, accelerator: Accelerator, folder: RunFolder, stop: StopSignals, start: float
) -> dict[str, float]:
    run = prepare_run(config, accelerator, folder, stop)
    with closing(Progress(run)) as progress, logging_redirect_tqdm():
        metrics = _train(run, progress)
    summarize(run, metrics, progress, time.monotonic() - start)
    return metrics


def _train(run: Run, progress: Progress) -> dict[str, float]:
    config, state, accelerator = run.config, run.state, run.accelerator
    metrics: dict[str, float] = {}
    run.stop.deferred = True
    while (state.step < run.total_steps or state.epoch_ended) and not (run.selection and run.selection.ended):
        if not state.epoch_ended:
            with fast_kernels(config):
                _train_epoch(run, progress)
            # Before the evaluation, so that a run which is stopped during it resumes with it.
            if state.step % (config.checkpoint_every or 1) == 0 or state.step == run.total_steps:
                _save_checkpoint(run)
        due = state.step == run.total_steps or bool(config.val_interval and state.epoch % config.val_interval == 0)
        pushed = config.push_every and state.epoch % config.push_every == 0 and state.step < run.total_steps
        metrics = {}
        if due or pushed:  # a pushed model card states its metrics
            metrics = _evaluate(run, due)
        if pushed:
            where = f"step {state.step} of {run.total_steps} (epoch {state.epoch} of {config.epochs})"
            run.folder.save_model(run.unsharded_student(), metrics, unfinished=where)
            run.folder.push(f"epoch {state.epoch}, step {state.step}: {describe(metrics, main_metric(metrics))}")
        state.epoch_ended = False
    _stop_if_asked(run)
    run.stop.deferred = False
    progress.close()
    # Without Accelerate's autocast around its forward, as the final metrics are measured in float32.
    run.task.trainable_module = accelerator.unwrap_model(run.task.trainable_module, keep_fp32_wrapper=False)
    student, selection = run.unsharded_student(), run.selection
    if selection is not None and config.keep_best:
        student.load_state_dict(selection.best_weights)
        metrics = selection.best_metrics
    if not metrics or config.mixed_precision != "no":
        evaluator = build_evaluator(run.data, accelerator.device)
        metrics = evaluate(
            student, run.eval_batches, accelerator, config.channels_last, autocast=False, evaluator=evaluator
        )
    run.folder.saver.wait()
    run.folder.save_model(student, metrics, selection)
    run.folder.finish()
    accelerator.end_training()
    return metrics


def _evaluate(run: Run, selects: bool) -> dict[str, float]:
    """Evaluate and report; `selects` is whether the evaluation counts for `keep_best` and `patience`."""
    student = run.unsharded_student()
    metrics = [
        evaluate(
            student,
            run.eval_batches,
            run.accelerator,
            run.config.channels_last,
            after_batch=lambda: _stop_if_asked(run),
            evaluator=build_evaluator(run.data, run.accelerator.device),
        )
    ]
    if run.selection is not None and selects:
        broadcast_object_list(metrics)  # a difference in the last bits must not make processes choose differently
        run.selection.add(metrics[0], epochs_begun(run), student)
    report_evaluation(run, metrics[0])
    return metrics[0]


def _train_epoch(run: Run, progress: Progress) -> None:
    """Train for one epoch, or the rest of it after a resume."""
    config, accelerator, task, state = run.config, run.accelerator, run.task, run.state
    run.order.start = state.images
    run.batches.set_epoch(state.epoch)
    task.train()
    keep_statistics(task)
    batches, steps = 0, (state.epoch + 1) * run.steps_per_epoch - run.position
    usable = steps * config.batches_per_step  # drop a last, incomplete step
    images_per_batch = config.batch_size * accelerator.num_processes
    progress.restart_clock()
    takes_indices = isinstance(task, AuxiliaryTask)  # timm's own tasks do not
    for batch in progress.waiting_for(overlapped(run.batches, accelerator.device)):
        if batches >= usable:
            continue  # Accelerate needs to see the loader's end
        if state.step >= run.total_steps:
            break
        images, labels, indices = run.on_device(batch)
        if run.mixing is not None:
            index = state.epoch * len(run.batches) + state.images // images_per_batch
            images, labels = run.mixing((images, labels), state.epoch, index)
        if config.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        task.progress = run.progress  # for lambda's schedule; timm's own tasks ignore it
        with accelerator.accumulate(task.trainable_module):
            with accelerator.autocast():  # for FSDP2; under DDP the prepared forward does it
                result = task(images, labels, indices) if takes_indices else task(images, labels)
            accelerator.backward(result["loss"])
            run.health.add_loss(result["loss"])
            if accelerator.sync_gradients:
                optimizer_step(run)
        batches, state.images = batches + 1, state.images + images_per_batch
        progress.add(result, labels)
        if not accelerator.sync_gradients:
            continue
        state.step += 1
        progress.step()
        run.folder.saver.check()
        run.scheduler.step_update(run.position)
        task.update_ema(step=state.step)
        if batches == usable or state.step == run.total_steps:
            continue
        if config.checkpoint_every and state.step % config.checkpoint_every == 0:
            _save_checkpoint(run)
        if run.health.stop_signal:
            _stop(run, run.health.stop_signal)
    state.epoch_ended = True
    if batches >= usable:
        state.epoch, state.images = state.epoch + 1, 0
        if state.epoch == 1:
            warn_of_classes_not_streamed(run.data)


def _save_checkpoint(run: Run) -> bool:
    """Begin to write a checkpoint and return True; return False if the weights are not finite."""
    begin = time.monotonic()
    check_steps(run, wait=True)
    module = run.task.get_trainable_module()
    (not_finite,) = all_reduce_max(run.accelerator, int(not is_finite(module)))
    if not_finite:
        _log.warning("step %d: weights are not finite; no checkpoint is written", run.state.step)
        return False
    run.folder.save_checkpoint(run.checkpointed, run.state)
    run.folder.saver.blocked += time.monotonic() - begin
    return True


def _stop_if_asked(run: Run) -> None:
    """Stop if any process has received a signal; every process must call this."""
    (number,) = all_reduce_max(run.accelerator, run.stop.received)
    if number:
        _stop(run, number)


def _stop(run: Run, number: int) -> None:
    """Write a checkpoint and end the run."""
    origin = "there" if _save_checkpoint(run) else "the last checkpoint, if there is one"
    run.folder.saver.wait()
    run.accelerator.wait_for_everyone()  # a launcher kills the others when one ends
    name, step = signal.Signals(number).name, run.state.step
    raise TrainingStopped(
        number, f"stopped by {name} after step {step}; the same command with --resume auto continues from {origin}"
    )
