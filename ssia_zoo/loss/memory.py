"""A network's earlier predictions for each training image, to be learned from besides the labels.

The exponential average over epochs is that of temporal ensembling (Laine & Aila, arXiv 1610.02242), without its bias
correction: the first prediction is taken as it is. Learning from one's own earlier predictions is PS-KD (Kim et al.,
arXiv 2006.12000), learning from their average where labels may be wrong is ELR (Liu et al., arXiv 2007.00151); both do
so at the top alone. No forward pass is added.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class PredictionMemory:
    """The average of earlier class distributions by image index, the same in every process.

    Args:
        images: Number N of training images.
        num_classes: Width C of the logits.
        momentum: How much of the average stays when a prediction comes in, from 0 (the last prediction alone) to
            below 1.
        device: Where the table [N, C] is kept, in float16: 2 * N * C bytes.
    """

    def __init__(self, images: int, num_classes: int, momentum: float, device: torch.device | None = None) -> None:
        self.momentum = momentum
        self.table = torch.zeros(images, num_classes, dtype=torch.float16, device=device)

    def read(self, indices: Tensor) -> Tensor:
        """The averages of these images.

        Args:
            indices: Rows of the training images [B].

        Returns:
            Class distributions [B, C], float32; a row of zeros for an image that has not been seen yet.
        """
        rows = self.table[indices.to(self.table.device)].float()
        total = rows.sum(dim=1, keepdim=True)
        return rows / torch.where(total > 0, total, 1.0)

    def update(self, indices: Tensor, logits: Tensor) -> None:
        """Take in the present predictions of all processes; those that are not finite are left out.

        Args:
            indices: Rows of the training images [B]. Of a row that comes twice, as an image does that fills the place
                of an unreadable one, only one prediction is taken in.
            logits: Final logits [B, C].
        """
        present = torch.softmax(logits.detach().float(), dim=1).to(self.table.dtype)
        indices, present = _gathered(indices.to(self.table.device)), _gathered(present)
        before = self.table[indices].float()
        seen = before.sum(dim=1, keepdim=True) > 0
        mixed = torch.where(seen, self.momentum * before + (1 - self.momentum) * present, present.float())
        finite = mixed.isfinite().all(dim=1, keepdim=True)
        self.table[indices] = torch.where(finite, mixed, before).to(self.table.dtype)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"table": self.table}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` gave.

        Raises:
            ValueError: The table is of another number of images or classes.
        """
        if state["table"].shape != self.table.shape:
            raise ValueError(
                f"the memory of predictions is of {tuple(state['table'].shape)} images and classes; expected "
                f"{tuple(self.table.shape)}"
            )
        self.table.copy_(state["table"])


def or_present(remembered: Tensor, logits: Tensor) -> Tensor:
    """Fill the rows of images without a memory with the present predictions.

    Args:
        remembered: As `PredictionMemory.read` gives it, [B, C].
        logits: Final logits [B, C]; no gradient goes into them.

    Returns:
        Class distributions [B, C], float32.
    """
    present = torch.softmax(logits.detach().float(), dim=1)
    return torch.where(remembered.sum(dim=1, keepdim=True) > 0, remembered, present)


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy of logits [B, C] against class distributions [B, C]."""
    return -(target * torch.log_softmax(logits.float(), dim=1)).sum(dim=1).mean()


def _gathered(tensor: Tensor) -> Tensor:
    """The rows of all processes, in the order of their ranks."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)
