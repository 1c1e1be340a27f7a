"""What is told of a run while it goes on: a progress line, records of training and of evaluations."""

from __future__ import annotations

import logging
import math
import time

from accelerate.utils import tqdm
from torch import Tensor

from ssia_zoo.task import AuxiliaryTask
from ssia_zoo.training.run import Run

_RECORDS_PER_EPOCH = 10
_log = logging.getLogger(__name__)


class Progress:
    """Progress of one epoch: its line on the terminal, and some ten records of it in metrics.jsonl."""

    def __init__(self, run: Run) -> None:
        self.run = run
        done = run.position.batches // run.config.accumulation_steps
        self._every = math.ceil(run.steps_per_epoch / _RECORDS_PER_EPOCH)
        self._line = tqdm(
            total=run.steps_per_epoch,
            initial=done,
            desc=f"epoch {run.position.epoch + 1}/{run.config.epochs}",
            unit="step",
            leave=False,
        )
        self._start_anew()

    def _start_anew(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counted, self._since = 0, time.monotonic()

    def add(self, result: dict[str, Tensor], labels: Tensor) -> None:
        """Take in what a batch gave."""
        for name, value in result.items():
            if name != "output":
                self._sums[name] = self._sums.get(name, 0) + value.detach()
        self._counted += 1

    def step(self) -> None:
        """Move the line on by an optimizer step, and write a record where one is due."""
        run, position = self.run, self.run.position
        self._line.update()
        done = position.batches // run.config.accumulation_steps
        if done % self._every == 0 or done == run.steps_per_epoch or position.step == run.total_steps:
            values = {name: float(total) / self._counted for name, total in self._sums.items()}
            images = self._counted * run.config.batch_size * run.accelerator.num_processes
            speed = images / (time.monotonic() - self._since)
            self._line.set_postfix_str(f"loss {values['loss']:.3f}, {speed:.0f} images/s")
            _record_training(run, values, speed)
            self._start_anew()

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
        epoch=position.epoch + position.batches / (run.steps_per_epoch * run.config.accumulation_steps),
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
    run.folder.record("eval", epoch=position.step / run.steps_per_epoch, step=position.step, **metrics)
    if run.config.with_tracking:
        run.accelerator.log({f"eval/{name}": value for name, value in metrics.items()}, step=position.step)
    epoch = math.ceil(position.step / run.steps_per_epoch)
    skipped = f", {position.skipped} steps skipped as not finite" if position.skipped else ""
    values = (epoch, run.config.epochs, metrics["top1"], metrics["loss"], skipped)
    _log.info("epoch %d/%d: top-1 %.2f %%, loss %.4f%s", *values)
