"""A task loss whose images are weighted by their classes."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


class ClassWeightedLoss(nn.Module):
    """Mean over the images of a batch of each image's loss times the weight of its class.

    Its expectation is that of the unweighted loss on images drawn with probabilities in proportion to the weights. An
    image of several classes, from mixup or cutmix, has the mean of their weights by their shares. The sum is divided by
    the number of images, not by the sum of their weights, so that gradient accumulation and data parallelism do not
    change it.

    Args:
        per_image: Loss of each image [B], from logits [B, C] and targets.
        weights: Weight of each class [C].
        smoothing: Label smoothing that distributions as targets contain; it does not count as a share of a class.

    Examples:
        >>> import torch
        >>> loss = ClassWeightedLoss(nn.CrossEntropyLoss(reduction="none"), torch.ones(3))
        >>> loss(torch.zeros(2, 3), torch.tensor([0, 2]))
        tensor(1.0986)
    """

    weights: Tensor

    def __init__(self, per_image: Callable[[Tensor, Tensor], Tensor], weights: Tensor, smoothing: float = 0.0) -> None:
        super().__init__()
        self.per_image = per_image
        self.smoothing = smoothing
        self.register_buffer("weights", weights, persistent=False)  # not a part of checkpoints

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            logits: [B, C].
            target: Classes [B], or distributions over them [B, C].
        """
        return (self._image_weights(target) * self.per_image(logits, target)).mean()

    def _image_weights(self, target: Tensor) -> Tensor:
        if target.dim() == 1:
            return self.weights[target]
        shares = (target - self.smoothing / len(self.weights)) / (1 - self.smoothing)
        return shares @ self.weights
