"""Run train_hf.py or timm's train.py, unchanged, and time some of its optimizer steps; or time an evaluation.

torch calls a hook after every optimizer step. After the warm-up and after the last step it waits for the GPU; in
between, nothing is added to the loop. Then the run is ended.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import time
from pathlib import Path
from typing import Any

import timm
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from ssia_zoo.data import DataConfig
from ssia_zoo.evaluation import validate as validation
from ssia_zoo.training import parse_config, train
from ssia_zoo.training.metrics import read_records


class Clock:
    """Times optimizer steps and ends the process after the last one."""

    def __init__(self, result: Path, warm_up: int, steps: int, batch_size: int) -> None:
        self.result, self.warm_up, self.steps, self.batch_size = result, warm_up, steps, batch_size
        self.done, self.since = 0, 0.0
        self.folder: Path | None = None
        """of a run of train_hf.py"""

    def after_step(self, *_: Any) -> None:
        """Count a step; note the time or end the run if it is due."""
        self.done += 1
        if self.done == self.warm_up:
            self.since = now()
        elif self.done == self.warm_up + self.steps:
            seconds = now() - self.since
            speed = {
                "images_per_second": round(self.steps * self.batch_size / seconds, 1),
                "ms_per_step": round(1000 * seconds / self.steps, 3),
            }
            write(self.result, speed | memory() | self.recorded())
            raise SystemExit

    def recorded(self) -> dict[str, float]:
        """Return what the newest record of train_hf.py states on waiting and utilization."""
        if self.folder is None:
            return {}
        records = [r for r in read_records(self.folder / "metrics.jsonl") if r["kind"] == "train"]
        return {name: records[-1][name] for name in ("data_wait", "mfu") if records and name in records[-1]}


def now() -> float:
    """Return the time at which the GPU has done its work so far."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def memory() -> dict[str, float]:
    return {"peak_memory_mb": round(torch.cuda.max_memory_allocated() / 1e6, 1)} if torch.cuda.is_available() else {}


def write(result: Path, measured: dict[str, Any]) -> None:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores"
    result.write_text(json.dumps({**measured, "device": device}))


def evaluate(result: Path, batch_size: int, model: str, dataset: str, image_size: str, workers: str) -> None:
    """Time the evaluation of a model with random weights, without loading the model and listing the images."""
    seconds = []
    inner = validation.evaluate

    def timed(*arguments: Any, **options: Any) -> dict[str, float]:
        start = now()
        metrics = inner(*arguments, **options)
        seconds.append(now() - start)
        return metrics

    validation.evaluate = timed
    classes = sum(1 for path in Path(dataset, "train").iterdir() if path.is_dir())
    network = timm.create_model(model, num_classes=classes, pretrained=False)
    config = DataConfig(dataset=dataset, image_size=int(image_size), batch_size=batch_size, workers=int(workers))
    images = validation.validate(network, config)["images"]
    write(result, {"images_per_second": round(images / seconds[0], 1), **memory()})


def time_steps(result: str, loop: str, warm_up: str, steps: str, batch_size: str, *arguments: str) -> None:
    """Write the speed of a loop to a file.

    Args:
        result: JSON file to write.
        loop: "ours", "timm" or "evaluate".
        warm_up: Steps before those that are timed.
        steps: Steps that are timed.
        batch_size: Images per step.
        arguments: Flags of train_hf.py; timm's train.py and its flags; or those of `evaluate`.
    """
    if loop == "evaluate":
        evaluate(Path(result), int(batch_size), *arguments)
        return
    clock = Clock(Path(result), int(warm_up), int(steps), int(batch_size))
    register_optimizer_step_post_hook(clock.after_step)
    if loop == "timm":
        script, *flags = arguments
        sys.argv = ["train.py", *flags]
        runpy.run_path(script, run_name="__main__")
    else:
        config = parse_config(list(arguments))
        clock.folder = Path(config.output_dir)
        train(config)
