"""Re-estimate BatchNorm's statistics for evaluation, where training images are smaller (`train_image_size`)."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssia_zoo.data import NOT_COUNTED, ImageData, ImageStream, UnreadableImages, eval_loader
from ssia_zoo.data.preprocessing import Preprocessing
from ssia_zoo.data.splits import subset
from ssia_zoo.training.config import TrainConfig
from ssia_zoo.training.freezing import keep_statistics
from ssia_zoo.training.model import train_input_size

_log = logging.getLogger(__name__)

_IMAGES = 1000
"""Enough for BatchNorm, by section 3.2 of https://arxiv.org/abs/2105.07576."""
_BATCH = 50
"""Images at a time; each batch counts the same."""


class EvaluationStatistics:
    """BatchNorm's statistics for images of evaluation's size, averaged over training images.

    The statistics that training collects are those of its own image size, with which a network does worse at another
    (https://arxiv.org/abs/1906.06423).

    Args:
        layers: Names of the BatchNorm layers.
        batches: Images [N, C, H, W] and labels [N], prepared as for evaluation.
        channels_last: Memory format of the images.
    """

    def __init__(self, layers: list[str], batches: Iterable[tuple[Tensor, Tensor]], channels_last: bool) -> None:
        self.layers = layers
        self.batches = batches
        self._format = torch.channels_last if channels_last else torch.contiguous_format

    @torch.no_grad()
    def refresh(self, model: nn.Module) -> None:
        """Replace the statistics of a model, which is in eval mode then; every process computes the same."""
        layers = {name: layer for name, layer in model.named_modules() if name in self.layers}
        momenta = {name: layer.momentum for name, layer in layers.items()}
        device = next(model.parameters()).device
        model.eval()  # dropout and drop path stay off
        for layer in layers.values():
            layer.train()
            layer.reset_running_stats()
            layer.momentum = None  # the average over all batches
        for images, labels in self.batches:
            readable = images[(labels != NOT_COUNTED).reshape(len(labels), -1).all(1)]
            if len(readable) > 1:  # BatchNorm cannot normalize one vector
                model(readable.to(device).contiguous(memory_format=self._format))
        for name, layer in layers.items():
            layer.momentum = momenta[name]
        model.eval()


def evaluation_statistics(
    config: TrainConfig, trained: nn.Module, data: ImageData, preprocessing: Preprocessing
) -> EvaluationStatistics | None:
    """Return the statistics to refresh before each evaluation, or None if training images have evaluation's size.

    Those of frozen layers stay as they are.

    Args:
        config: Settings.
        trained: The model that trains; it is in train mode then.
        data: Training images.
        preprocessing: That of evaluation.
    """
    layers = _collecting_layers(trained)
    if not layers or train_input_size(config, preprocessing) == preprocessing.input_size:
        return None
    if isinstance(data.train, ImageStream):
        _log.warning("BatchNorm's statistics stay those of the size of the training images, as these are a stream")
        return None
    batch = min(_BATCH, len(data.train))
    rows = subset(data.train, min(_IMAGES, len(data.train)) // batch * batch)
    rows = rows.shuffle(seed=0)  # a batch of one class, as in a sorted folder, has too little variance
    unreadable = UnreadableImages("the training images", len(rows), max_fraction=1.0)  # training itself reports them
    loader = eval_loader(
        replace(data, eval=rows, unreadable_eval=unreadable),
        replace(config, workers=0, eval_batch_size=batch),
        mean=preprocessing.mean,
        std=preprocessing.std,
    )
    _log.info(
        "before each evaluation, BatchNorm's statistics are computed from %d training images of %dx%d",
        *(len(rows), *preprocessing.input_size[1:]),
    )
    return EvaluationStatistics(layers, loader, config.channels_last)


def _collecting_layers(trained: nn.Module) -> list[str]:
    """Return the names of the BatchNorm layers of a model that are not frozen; the model is in train mode then."""
    keep_statistics(trained.train())
    return [name for name, layer in trained.named_modules() if _collects(layer) and layer.training]


def _collects(layer: nn.Module) -> bool:
    return isinstance(layer, _BatchNorm) and layer.track_running_stats
