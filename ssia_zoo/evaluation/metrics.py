"""Measure a model on all images of a prepared loader: top-1, top-5 and loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from timm.task.evaluator import ClassificationEvaluator

from ssia_zoo.data import NOT_COUNTED
from ssia_zoo.models.features import TimmModel, evaluating


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
