"""Copy batches to the GPU while it computes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch


def overlapped(batches: Iterable[Any], device: torch.device) -> Iterator[Any]:
    """Yield batches whose copies to a GPU overlap with its work; on other devices, change nothing.

    Accelerate's loaders queue the copy of a batch one batch ahead. Here it is queued on a CUDA stream for copies, and
    the stream of the training steps waits for it. Copies from pinned memory do not block the host.

    Args:
        batches: A loader prepared by Accelerate, whose batches are tuples of tensors and lists of numbers.
        device: Of the run.
    """
    if device.type != "cuda":
        yield from batches
        return
    copies: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch has no types here
    iterator = iter(batches)
    while True:
        with torch.cuda.stream(copies):
            batch = next(iterator, None)
        if batch is None:
            return
        compute = torch.cuda.current_stream(device)
        compute.wait_stream(copies)
        for part in batch:
            if isinstance(part, torch.Tensor):
                part.record_stream(compute)  # else its memory could be reused before the step has read it
        yield batch
