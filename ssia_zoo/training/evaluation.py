"""Evaluate a model without training (`eval_only`)."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from accelerate import Accelerator

from ssia_zoo.evaluation.validate import validate
from ssia_zoo.files import atomic_write
from ssia_zoo.models.metric_names import describe
from ssia_zoo.training.config import TrainConfig
from ssia_zoo.training.model import create_model

_log = logging.getLogger(__name__)


def evaluate_only(config: TrainConfig, accelerator: Accelerator) -> dict[str, float]:
    """Evaluate `config.model` on the evaluation split in float32 and write the result to metrics.json.

    Returns:
        The metrics of `ssia_zoo.evaluation.metrics.evaluate`.

    Raises:
        SSIAZooError: If the model, its weights or the data cannot be used.
    """
    metrics = validate(create_model(config), config)
    images = int(metrics.pop("images"))
    if accelerator.is_main_process:
        path = Path(config.output_dir) / "metrics.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps({**metrics, "images": images}, indent=2) + "\n", encoding="utf-8")
        _log.info(
            "%s on %s, %d images: %s; %s",
            *(config.model, config.dataset, images, describe(metrics), path),
        )
    return metrics
