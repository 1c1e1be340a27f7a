"""Evaluation of a model on all images of a split, during a run or alone."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from timm.task.evaluator import ClassificationEvaluator

from ssia_zoo.data import NOT_COUNTED
from ssia_zoo.features import TimmModel, evaluating
from ssia_zoo.training.config import TrainConfig
from ssia_zoo.training.setup import create_model

_log = logging.getLogger(__name__)


def evaluate(
    model: TimmModel,
    batches: Any,
    accelerator: Accelerator,
    channels_last: bool = False,
    autocast: bool = True,
    after_batch: Callable[[], None] | None = None,
    outputs: Sequence[int] | None = None,
) -> dict[str, float]:
    """Measure a model on all images of a prepared loader, each counted once whatever the number of processes.

    Args:
        model: A timm classifier; its modes are put back afterwards.
        batches: `ssia_zoo.data.eval_loader`'s, prepared by `accelerator`; images that cannot be read are left out.
        accelerator: Gives precision and processes.
        channels_last: Whether to lay images out that way.
        autocast: Whether to run in the accelerator's mixed precision, as in training; else in float32.
        after_batch: Called after each batch; what it raises ends the evaluation.
        outputs: For each class of the data the model's output, as `match_model` finds it; all in their order if None.

    Returns:
        "top1" and "top5" in percent, and "loss", the mean cross-entropy.
    """
    evaluator = ClassificationEvaluator(device=accelerator.device)
    share_buffers(model, accelerator)
    order = None if outputs is None else torch.tensor(outputs, device=accelerator.device)
    with evaluating(model), torch.inference_mode():
        for images, labels in batches:
            if channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            with accelerator.autocast() if autocast else nullcontext():
                logits = model(images)
            if order is not None:
                logits = logits[:, order].masked_fill(order < 0, -torch.inf)
            logits, labels = accelerator.gather_for_metrics((logits.float(), labels))
            counted = labels != NOT_COUNTED
            evaluator.update(logits[counted], labels[counted])
            if after_batch is not None:
                after_batch()
    batches.dataset.unreadable.collect()
    return dict(evaluator.compute())


def share_buffers(model: torch.nn.Module, accelerator: Accelerator) -> None:
    """Give all processes the main process's buffers: batch statistics are each one's own, and its are saved."""
    if accelerator.num_processes > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, src=0)


def evaluate_only(config: TrainConfig, accelerator: Accelerator) -> dict[str, float]:
    """Measure the weights of `--model` on the evaluation split, in float32, and write them to metrics.json.

    Returns:
        As `evaluate`.

    Raises:
        SSIAZooError: If the model, its weights or the data cannot be used.
    """
    from ssia_zoo.validation import validate  # which imports this module

    metrics = validate(create_model(config), config)
    images = int(metrics.pop("images"))
    if accelerator.is_main_process:
        path = Path(config.output_dir) / "metrics.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**metrics, "images": images}, indent=2) + "\n", encoding="utf-8")
        _log.info(
            "%s on %s, %d images: top-1 %.2f %%, top-5 %.2f %%, loss %.4f; %s",
            *(config.model, config.dataset, images, metrics["top1"], metrics["top5"], metrics["loss"], path),
        )
    return metrics
