"""`--eval-only`: measure the weights of a model and write what they score."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from accelerate import Accelerator

from ssia_zoo.evaluation.validate import validate
from ssia_zoo.training.config import TrainConfig
from ssia_zoo.training.machine import create_model

_log = logging.getLogger(__name__)


def evaluate_only(config: TrainConfig, accelerator: Accelerator) -> dict[str, float]:
    """Measure the weights of `--model` on the evaluation split, in float32, and write them to metrics.json.

    Returns:
        As `evaluate`.

    Raises:
        SSIAZooError: If the model, its weights or the data cannot be used.
    """
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
