"""Measure any timm classifier on any data set that training reads."""

from __future__ import annotations

from dataclasses import replace

from accelerate import Accelerator

from ssia_zoo.data import DataConfig, eval_loader, load_image_data
from ssia_zoo.errors import DataError
from ssia_zoo.features import TimmModel
from ssia_zoo.training.evaluation import evaluate


def validate(model: TimmModel, config: DataConfig) -> dict[str, float]:
    """Measure a model in float32, with the preprocessing that its `pretrained_cfg` names.

    Args:
        model: A timm classifier.
        config: The data; its image size, interpolation and crop are taken from the model where the model says.

    Returns:
        "top1" and "top5" in percent, "loss" (mean cross-entropy), and "images", the number that could be read.

    Raises:
        DataError: If the data has another number of classes than the model, or cannot be read.
    """
    cfg = model.pretrained_cfg
    config = replace(
        config,
        image_size=config.image_size or cfg["input_size"][1],
        interpolation=cfg["interpolation"],
        crop_pct=cfg["crop_pct"],
    )
    data = load_image_data(config)
    if len(data.label_names) != model.num_classes:
        raise DataError(
            f"{config.dataset} has {len(data.label_names)} classes and the model {model.num_classes}; they must agree"
        )
    accelerator = Accelerator()
    batches = accelerator.prepare(eval_loader(data, config, mean=cfg["mean"], std=cfg["std"]))
    model = model.to(accelerator.device)  # not prepared: a process that trains in bf16 would lend it its autocast
    metrics = evaluate(model, batches, accelerator, autocast=False)
    return {**metrics, "images": float(len(data.eval) - len(data.unreadable_eval))}
