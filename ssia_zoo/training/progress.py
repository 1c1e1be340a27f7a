"""What is told of a run: a progress line, records of training and of evaluations, and a summary at its end."""

from __future__ import annotations

import logging
import math
import shlex
import time
from dataclasses import fields

from torch import Tensor
from tqdm.auto import tqdm

from ssia_zoo.commands import folder_argument
from ssia_zoo.task import AuxiliaryTask
from ssia_zoo.training.run import Run

_RECORDS_PER_EPOCH = 10
_OF_EVALUATION = (
    *("dataset", "dataset_config", "train_split", "eval_split", "holdout"),
    *("image_column", "label_column", "num_classes", "image_size", "max_eval_images", "max_corrupt", "max_pixels"),
)
_SECONDS_BETWEEN_LINES = 30.0
_log = logging.getLogger(__name__)


class Progress:
    """A line on the terminal (into a log, a line now and then), and some ten records an epoch in metrics.jsonl."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.images, self.seconds = 0, 0.0  # of this process's training alone
        self._every = math.ceil(run.steps_per_epoch / _RECORDS_PER_EPOCH)
        self._first_step = run.position.step
        self._line = tqdm(
            total=run.total_steps,
            initial=run.position.step,
            bar_format="{desc}{percentage:3.0f}% {n_fmt}/{total_fmt} steps [{elapsed}<{remaining}{postfix}]",
            leave=False,
            dynamic_ncols=True,
            disable=None if run.accelerator.is_main_process else True,  # None: where there is no terminal
        )
        self._told = time.monotonic()
        self.start_anew()

    def start_anew(self) -> None:
        """Start the clock: what came between, such as an evaluation, is not counted."""
        self._fresh, self._since = 0, time.monotonic()  # batches of this process; a resumed run has counted more

    def add(self, result: dict[str, Tensor], labels: Tensor) -> None:
        """Take in what a batch gave."""
        position = self.run.position
        values = {name: value.detach() for name, value in result.items() if name != "output"}
        if labels.ndim == 1:  # mixed images have no one class to compare with
            values["top1"] = 100 * (result["output"].detach().argmax(-1) == labels).float().mean()
        for name, value in values.items():
            position.sums[name] = position.sums.get(name, 0) + value
        position.counted, self._fresh = position.counted + 1, self._fresh + 1

    def step(self) -> None:
        """Move the line on by an optimizer step, and write a record where one is due."""
        run, position = self.run, self.run.position
        self._line.update()
        done = position.batches // run.config.batches_per_step
        if done % self._every == 0 or done == run.steps_per_epoch or position.step == run.total_steps:
            values = {name: float(total) / position.counted for name, total in position.sums.items()}
            images = self._fresh * run.config.batch_size * run.accelerator.num_processes
            seconds = time.monotonic() - self._since
            self.images, self.seconds = self.images + images, self.seconds + seconds
            self._tell(values, images / seconds)
            _record_training(run, values, images / seconds)
            run.data.unreadable_train.collect()
            position.sums, position.counted = {}, 0
            self.start_anew()

    def _tell(self, values: dict[str, float], images_per_second: float) -> None:
        run, step = self.run, self.run.position.step
        top1 = [f"top-1 {values['top1']:.1f} %"] if "top1" in values else []
        parts = [f"{name} {value:.3f}" for name, value in values.items() if name != "top1"]
        text = ", ".join([f"{images_per_second:.0f} images/s", *top1, *parts])  # a narrow terminal cuts its end
        self._line.set_description_str(f"epoch {run.position.epoch + 1}/{run.config.epochs} ", refresh=False)
        self._line.set_postfix_str(text)
        if self._line.disable and time.monotonic() - self._told > _SECONDS_BETWEEN_LINES:
            self._told = time.monotonic()
            steps = step - self._first_step
            remaining = tqdm.format_interval(self.seconds / steps * (run.total_steps - step))
            _log.info("step %d/%d, %s left: %s", step, run.total_steps, remaining, text)

    def close(self) -> None:
        """Take the line off the terminal."""
        self._line.close()


def _record_training(run: Run, values: dict[str, float], images_per_second: float) -> None:
    position = run.position
    values.setdefault("task_loss", values["loss"])
    values["lr"] = max(group["lr"] for group in run.optimizer.param_groups)
    if isinstance(run.task, AuxiliaryTask):
        values["lambda"] = run.task.weight_at((position.step - 1) / run.total_steps)
    run.folder.record(
        "train",
        epoch=position.epoch + position.batches / (run.steps_per_epoch * run.config.batches_per_step),
        step=position.step,
        **values,
        images_per_second=round(images_per_second, 1),
        skipped=position.skipped,
    )
    if run.config.with_tracking:
        run.accelerator.log({f"train/{name}": value for name, value in values.items()}, step=position.step)


def report_evaluation(run: Run, metrics: dict[str, float]) -> None:
    """Write down what an evaluation gave, and say it."""
    position = run.position
    measured = {**metrics, **run.folder.image_counts()}
    run.folder.record("eval", epoch=position.step / run.steps_per_epoch, step=position.step, **measured)
    if run.config.with_tracking:
        run.accelerator.log({f"eval/{name}": value for name, value in metrics.items()}, step=position.step)
    epoch = math.ceil(position.step / run.steps_per_epoch)
    skipped = f", {position.skipped} steps skipped as not finite" if position.skipped else ""
    values = (epoch, run.config.epochs, metrics["top1"], metrics["loss"], skipped)
    _log.info("epoch %d/%d: top-1 %.2f %%, loss %.4f%s", *values)


def summarize(run: Run, metrics: dict[str, float], progress: Progress, seconds: float) -> None:
    """Say in a few lines what the run came to, and what to do with it."""
    config, folder = run.config, run.folder.path
    _log.info(
        "done: top-1 %.2f %% (top-5 %.2f %%, loss %.4f) on %s, %d images",
        *(metrics["top1"], metrics["top5"], metrics["loss"], run.data.eval_name, len(run.data.eval)),
    )
    speed = f", training at {progress.images / progress.seconds:.0f} images/s" if progress.seconds else ""
    skipped = f", {run.position.skipped} skipped as not finite" if run.position.skipped else ""
    _log.info("%d steps%s in %s%s", run.position.step, skipped, tqdm.format_interval(seconds), speed)
    _log.info("weights: %s (model.safetensors, config.json, README.md; curves.png)", folder)
    default = {field.name: field.default for field in fields(config)}
    given = {name: value for name in _OF_EVALUATION if (value := getattr(config, name)) != default[name]}
    flags = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    _log.info("evaluate: %s", f"ssia-zoo validate {folder_argument(folder)} {shlex.join(flags)}")
    if not config.push_to_hub:
        _log.info("publish: ssia-zoo publish %s your-name/model-name", folder_argument(folder))
