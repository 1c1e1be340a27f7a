"""Report a run: a progress bar or log lines, records for the trackers, and a summary at the end."""

from __future__ import annotations

import logging
import math
import resource
import shlex
import time
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ssia_zoo.commands import folder_argument
from ssia_zoo.models.metric_names import describe, main_metric
from ssia_zoo.training.config import TrainConfig
from ssia_zoo.training.gradients import check_steps
from ssia_zoo.training.profiling import StepProfiler
from ssia_zoo.training.run import Run
from ssia_zoo.training.utilization import peak_flops

_RECORDS_PER_EPOCH = 10
_EVALUATION_SETTINGS = (
    *("dataset", "dataset_config", "train_split", "eval_split", "holdout"),
    *("labels", "image_column", "label_column", "label_separator"),
    *("num_classes", "image_size", "max_eval_images", "max_corrupt", "max_pixels"),
)
_SECONDS_BETWEEN_LINES = 30.0
_log = logging.getLogger(__name__)


class Progress:
    """A progress bar on a terminal (log lines elsewhere), and about ten records per epoch for the trackers."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.images, self.seconds = 0, 0.0  # of this process, without evaluation and checkpoints
        self._every = math.ceil(run.steps_per_epoch / _RECORDS_PER_EPOCH)
        self._first_step = run.state.step
        self._bar = tqdm(
            total=run.total_steps,
            initial=run.state.step,
            bar_format="{desc}{percentage:3.0f}% {n_fmt}/{total_fmt} steps [{elapsed}<{remaining}{postfix}]",
            leave=False,
            dynamic_ncols=True,
            disable=None if run.accelerator.is_main_process else True,  # None: disabled without a terminal
        )
        self._logged = time.monotonic()
        self._gradient_mb = round(_gradient_bytes(run.optimizer.param_groups) / 1e6, 3)
        self._profiler: StepProfiler | None = None
        if run.config.profile is not None and run.accelerator.is_main_process:
            self._profiler = StepProfiler(run.folder.path, run.config.profile)
        self.restart_clock()

    def restart_clock(self) -> None:
        """Restart the measurement of speed, without the evaluation or checkpoint before."""
        self._batches, self._since = 0, time.monotonic()  # state.counted may include batches before a resume
        self._waited = 0.0

    def waiting_for(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield batches and measure the time until each arrives."""
        iterator = iter(batches)
        while True:
            begin = time.monotonic()
            batch = next(iterator, None)
            self._waited += time.monotonic() - begin
            if batch is None:
                return
            yield batch

    def add(self, result: dict[str, Tensor], labels: Tensor) -> None:
        """Add the losses and the top-1 of a batch."""
        state = self.run.state
        values = {name: value.detach() for name, value in result.items() if name != "output"}
        if labels.ndim == 1:  # mixed images have no single class
            values["top1"] = 100 * (result["output"].detach().argmax(-1) == labels).float().mean()
        for name, value in values.items():
            state.sums[name] = state.sums.get(name, 0) + value
        state.counted, self._batches = state.counted + 1, self._batches + 1

    def step(self) -> None:
        """Advance the bar by an optimizer step, and write a record if one is due."""
        run, state = self.run, self.run.state
        self._bar.update()
        if self._profiler is not None:
            self._profiler.step()
        done = run.position - state.epoch * run.steps_per_epoch
        if done % self._every == 0 or done == run.steps_per_epoch or state.step == run.total_steps:
            check_steps(run, wait=True)
            values = {name: float(total) / state.counted for name, total in state.sums.items()}
            images = self._batches * run.config.batch_size * run.accelerator.num_processes
            seconds = time.monotonic() - self._since
            self.images, self.seconds = self.images + images, self.seconds + seconds
            self._show(values, images / seconds)
            _record_training(run, values, self._speed(images, seconds))
            run.data.unreadable_train.collect()
            state.sums, state.counted = {}, 0
            self.restart_clock()

    def _speed(self, images: int, seconds: float) -> dict[str, float]:
        """Return what a record tells about speed and memory."""
        run, device = self.run, self.run.accelerator.device
        speed = {
            "images_per_second": round(images / seconds, 1),
            "data_wait": round(self._waited / seconds, 4),
            "peak_memory_mb": round(_peak_memory(device) / 1e6, 1),
            "gradient_mb": self._gradient_mb,
            "save_seconds": round(run.folder.saver.blocked, 4),
        }
        run.folder.saver.blocked = 0.0
        if run.flops_per_image and (peak := peak_flops(run.config, device)):
            each = images / seconds / run.accelerator.num_processes
            speed["mfu"] = round(each * run.flops_per_image / peak, 4)
        return speed

    def _show(self, values: dict[str, float], images_per_second: float) -> None:
        run, step = self.run, self.run.state.step
        top1 = [f"top-1 {values['top1']:.1f} %"] if "top1" in values else []
        parts = [f"{name} {value:.3f}" for name, value in values.items() if name != "top1"]
        text = ", ".join([f"{images_per_second:.0f} images/s", *top1, *parts])  # a narrow terminal cuts off its end
        self._bar.set_description_str(f"epoch {run.state.epoch + 1}/{run.config.epochs} ", refresh=False)
        self._bar.set_postfix_str(text)
        if self._bar.disable and time.monotonic() - self._logged > _SECONDS_BETWEEN_LINES:
            self._logged = time.monotonic()
            steps = step - self._first_step
            remaining = tqdm.format_interval(self.seconds / steps * (run.total_steps - step))
            _log.info("step %d/%d, %s left: %s", step, run.total_steps, remaining, text)

    def close(self) -> None:
        """Remove the bar from the terminal, and end profiling."""
        self._bar.close()
        if self._profiler is not None:
            self._profiler.close()


def _gradient_bytes(groups: list[dict[str, Any]]) -> int:
    """Return the bytes of a step's gradients, training-only heads included; under FSDP2, of all shards together."""
    return sum(each.numel() * each.element_size() for group in groups for each in group["params"] if each.requires_grad)


def _peak_memory(device: torch.device) -> int:
    """Return the most bytes allocated so far: on the GPU, or by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Linux states KiB


def _record_training(run: Run, values: dict[str, float], speed: dict[str, float]) -> None:
    state = run.state
    values.setdefault("task_loss", values["loss"])
    groups = run.optimizer.param_groups
    values["lr"] = max(group["lr"] for group in groups if not group.get("classifier"))
    if run.config.head_lr is not None:
        values["head_lr"] = max(group["lr"] for group in groups if group.get("classifier"))
    if (lambda_at := getattr(run.task, "lambda_at", None)) is not None:
        values["lambda"] = lambda_at(run.progress_at(run.position - 1))
    epoch = run.position / run.steps_per_epoch
    _record(run, "train", {"epoch": epoch, **values, **speed, "skipped": state.skipped})


def _record(run: Run, kind: str, values: dict[str, float]) -> None:
    run.accelerator.log({f"{kind}/{name}": value for name, value in values.items()}, step=run.state.step)


def _words(value: object) -> list[str]:
    return [str(word) for word in value] if isinstance(value, tuple) else [str(value)]


def report_evaluation(run: Run, metrics: dict[str, float]) -> None:
    """Record and log the metrics of an evaluation."""
    state = run.state
    _record(run, "eval", {"epoch": run.position / run.steps_per_epoch, **metrics, **run.folder.image_counts()})
    skipped = f", {state.skipped} steps skipped as not finite" if state.skipped else ""
    values = describe(metrics, main_metric(metrics), "loss")
    _log.info("epoch %d/%d: %s%s%s", epochs_begun(run), run.config.epochs, values, skipped, _compare_with_best(run))


def epochs_begun(run: Run) -> int:
    """Return the number of epochs that have ended, and of one of which `max_steps` left out the rest."""
    return math.ceil(run.position / run.steps_per_epoch)


def _compare_with_best(run: Run) -> str:
    selection = run.selection
    if selection is None:
        return ""
    if not selection.since_best:
        return ", the best so far"
    score = selection.best_metrics[main_metric(selection.best_metrics)]
    best = f"; the best is {score:.2f} % in epoch {selection.best_epoch}"
    return f"{best}: stopping, as {selection.since_best} in a row were not better" if selection.ended else best


def summarize(run: Run, metrics: dict[str, float], progress: Progress, seconds: float) -> None:
    """Log the result of a run, and the commands to evaluate and publish it."""
    config, folder, main = run.config, run.folder.path, main_metric(metrics)
    _log.info(
        "done: %s (%s) on %s, %d images",
        *(describe(metrics, main), describe({name: value for name, value in metrics.items() if name != main})),
        *(run.data.eval_name, len(run.data.eval)),
    )
    speed = f", training at {progress.images / progress.seconds:.0f} images/s" if progress.seconds else ""
    skipped = f", {run.state.skipped} skipped as not finite" if run.state.skipped else ""
    if run.selection is not None and config.keep_best:
        _log.info("saved: the best of %d evaluations, epoch %d", run.selection.evaluations, run.selection.best_epoch)
    _log.info("%d steps%s in %s%s", run.state.step, skipped, tqdm.format_interval(seconds), speed)
    log_commands(config, folder)


def log_commands(config: TrainConfig, folder: Path) -> None:
    """Log where the weights are, and the commands to evaluate and publish them."""
    _log.info("weights: %s (model.safetensors, config.json, README.md; curves.png)", folder)
    default = {field.name: field.default for field in fields(config)}
    given = {name: value for name in _EVALUATION_SETTINGS if (value := getattr(config, name)) != default[name]}
    flags = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", *_words(value))]
    _log.info("evaluate: %s", f"ssia-zoo validate {folder_argument(folder)} {shlex.join(flags)}")
    if not config.push_to_hub:
        _log.info("publish: ssia-zoo publish %s your-name/model-name", folder_argument(folder))
