"""Exchange tensors between the processes of a distributed run; without one, change nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

_exchanging = True


def several_processes() -> bool:
    """Return whether this is a distributed run of more than one process, and not within `without_exchange`."""
    return _exchanging and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


@contextmanager
def without_exchange() -> Iterator[None]:
    """Let this process compute for itself: what it would exchange, other processes might never send."""
    global _exchanging
    _exchanging = False
    try:
        yield
    finally:
        _exchanging = True


def all_gather(tensor: Tensor) -> Tensor:
    """Concatenate the rows of all processes, in the order of their ranks; each has the same number of rows."""
    if not several_processes():
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


@torch.no_grad()
def broadcast_together(tensors: Sequence[Tensor]) -> None:
    """Copy the first process's values of tensors of one dtype into those of all processes, in one operation."""
    if not several_processes() or not tensors:
        return
    together = torch.cat([tensor.flatten() for tensor in tensors])
    dist.broadcast(together, src=0)
    start = 0
    for tensor in tensors:
        tensor.copy_(together[start : start + tensor.numel()].view_as(tensor))
        start += tensor.numel()
