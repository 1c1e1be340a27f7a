"""Compute the metrics of a model on all images of a prepared loader."""

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
    evaluator: ClassificationEvaluator | None = None,
) -> dict[str, float]:
    """Compute the metrics, counting each image once for any number of processes.

    Args:
        model: A timm classifier; its modes are restored afterwards.
        batches: A loader from `ssia_zoo.data.eval_loader`, prepared by `accelerator`; it leaves unreadable images out.
        accelerator: Determines precision and processes.
        channels_last: Whether to convert images to channels_last.
        autocast: Whether to use the accelerator's mixed precision, as in training; else float32.
        after_batch: Called after each batch; its exceptions end the evaluation.
        outputs: The model's output for each class of the data, from `match_model`; all outputs in order if None.
        evaluator: A new one from `build_evaluator`; that of single labels if None.

    Returns:
        "top1" and "top5" in percent, and "loss", the mean cross-entropy; those of `MultiLabelEvaluator` for several
        labels an image.
    """
    evaluator = evaluator or ClassificationEvaluator(device=accelerator.device)
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
            counted = (labels if labels.ndim == 1 else labels[:, 0]) != NOT_COUNTED
            evaluator.update(logits[counted], labels[counted])
            if after_batch is not None:
                after_batch()
    batches.dataset.unreadable.collect()
    return dict(evaluator.compute())


def share_buffers(model: torch.nn.Module, accelerator: Accelerator) -> None:
    """Broadcast rank 0's BatchNorm statistics, which are the ones that are saved."""
    if accelerator.num_processes > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, src=0)
