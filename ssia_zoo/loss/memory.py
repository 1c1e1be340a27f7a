"""A memory of a network's earlier predictions for each training image, as an additional training target.

The exponential average over epochs is that of temporal ensembling (Laine & Aila, arXiv 1610.02242), without bias
correction: the average starts with the first prediction. PS-KD (Kim et al., arXiv 2006.12000) trains on the network's
own earlier predictions, ELR (Liu et al., arXiv 2007.00151) on their average to resist wrong labels; both do so at the
final logits only. No forward pass is added.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssia_zoo.loss.processes import all_gather


class PredictionMemory:
    """Average of earlier class distributions by image index; identical in all processes.

    Args:
        images: Number N of training images.
        num_classes: Width C of the logits.
        momentum: Weight of the old average in an update, from 0 (keep only the last prediction) to below 1.
        temperature: Temperature T of the predictions softmax(logits / T) that are averaged.
        device: Device of the table [N, C], which is float16: 2 * N * C bytes.
    """

    def __init__(
        self,
        images: int,
        num_classes: int,
        momentum: float,
        *,
        temperature: float = 1.0,
        device: torch.device | None = None,
    ) -> None:
        self.momentum = momentum
        self.temperature = temperature
        self.table = torch.zeros(images, num_classes, dtype=torch.float16, device=device)

    def read(self, indices: Tensor) -> Tensor:
        """Return the averages of a batch.

        Args:
            indices: Rows of the training images [B].

        Returns:
            Class distributions [B, C] at the temperature, float32; a row of zeros for an image without an earlier
            prediction.
        """
        rows = self.table[indices.to(self.table.device)].float()
        total = rows.sum(dim=1, keepdim=True)
        return rows / torch.where(total > 0, total, 1.0)

    def update(self, indices: Tensor, logits: Tensor) -> None:
        """Update the averages with the current predictions of all processes; skip those that are not finite.

        Args:
            indices: Rows of the training images [B]. A row may occur several times, as an image that replaces an
                unreadable one does, or one of a rare class in balanced batches; its last prediction is used.
            logits: Final logits [B, C].
        """
        current = torch.softmax(logits.detach().float() / self.temperature, dim=1).to(self.table.dtype)
        indices, current = all_gather(indices.to(self.table.device)), all_gather(current)
        current = current[_last_of_each(indices, len(self.table))]
        before = self.table[indices].float()
        seen = before.sum(dim=1, keepdim=True) > 0
        average = torch.where(seen, self.momentum * before + (1 - self.momentum) * current, current.float())
        finite = average.isfinite().all(dim=1, keepdim=True)
        self.table[indices] = torch.where(finite, average, before).to(self.table.dtype)

    def state_dict(self) -> dict[str, Any]:
        """Return the state to save in a checkpoint."""
        return {"table": self.table}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the result of `state_dict`.

        Raises:
            ValueError: The table has another number of images or classes.
        """
        if state["table"].shape != self.table.shape:
            raise ValueError(
                f"the memory of predictions has {tuple(state['table'].shape)} images and classes; expected "
                f"{tuple(self.table.shape)}"
            )
        self.table.copy_(state["table"])


def or_present(remembered: Tensor, logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Use the current predictions for images without an earlier one.

    Args:
        remembered: Result of `PredictionMemory.read`, [B, C].
        logits: Final logits [B, C]; no gradient reaches them.
        temperature: Temperature of the predictions, that of the memory.

    Returns:
        Class distributions [B, C] at the temperature, float32.
    """
    current = torch.softmax(logits.detach().float() / temperature, dim=1)
    return torch.where(remembered.sum(dim=1, keepdim=True) > 0, remembered, current)


def at_temperature_1(distributions: Tensor, temperature: float) -> Tensor:
    """Return softmax(z) [B, C] from distributions softmax(z / temperature) [B, C]."""
    if temperature == 1:
        return distributions
    powers = (distributions / distributions.amax(dim=1, keepdim=True)) ** temperature
    return powers / powers.sum(dim=1, keepdim=True)


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross-entropy of logits [B, C] against class distributions [B, C]."""
    return -(target * torch.log_softmax(logits.float(), dim=1)).sum(dim=1).mean()


def _last_of_each(indices: Tensor, images: int) -> Tensor:
    """Return for each place [B] the last place with the same index, without waiting for the device.

    Writing equal values for equal indices gives the same table in every process, in whatever order a GPU writes them.
    """
    places = torch.arange(len(indices), device=indices.device)
    last = torch.zeros(images, dtype=torch.long, device=indices.device).scatter_reduce_(0, indices, places, "amax")
    return last[indices]
