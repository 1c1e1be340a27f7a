"""Evaluate any timm classifier on any data set that training reads."""

from __future__ import annotations

from accelerate import Accelerator

from ssia_zoo.data import DataConfig, eval_loader, load_eval_data
from ssia_zoo.data.channels import report_conversions
from ssia_zoo.data.labels import read_labels
from ssia_zoo.data.preprocessing import model_preprocessing
from ssia_zoo.evaluation.metrics import evaluate
from ssia_zoo.models.features import TimmModel, try_blank_image
from ssia_zoo.models.label_names import match_model


def validate(model: TimmModel, config: DataConfig) -> dict[str, float]:
    """Evaluate a model in float32 with its own preprocessing; classes are matched by name.

    If the data has only some of the model's classes, as ImageNet-A and ImageNet-R do, the outputs of the other classes
    are left out and a warning is logged.

    Args:
        model: A timm classifier.
        config: The data; its image size, interpolation and crop, if set, replace the model's.

    Returns:
        "top1" and "top5" in percent, "loss" (mean cross-entropy), and "images", the number of readable images.

    Raises:
        ClassesError: If the classes of the data are not the model's.
        ConfigError: If the model cannot take images of this size.
        DataError: If the data cannot be read.
    """
    preprocessing = model_preprocessing(model, config)
    try_blank_image(model, preprocessing.input_size)
    data = load_eval_data(config)
    used = set(read_labels(data.eval, data.label_column))
    report_conversions(data.eval, data.image_column, preprocessing.input_size[0])
    outputs = match_model(model, data.label_names, config.dataset, used)
    loader = eval_loader(
        data,
        preprocessing.applied_to(config),
        mean=preprocessing.mean,
        std=preprocessing.std,
        input_size=preprocessing.input_size,
    )
    accelerator = Accelerator()
    batches = accelerator.prepare(loader)
    model = model.to(accelerator.device)  # not prepared, which would add a training's autocast
    metrics = evaluate(model, batches, accelerator, autocast=False, outputs=outputs)
    return {**metrics, "images": float(len(data.eval) - len(data.unreadable_eval))}
