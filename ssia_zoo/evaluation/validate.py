"""Measure any timm classifier on any data set that training reads."""

from __future__ import annotations

from accelerate import Accelerator

from ssia_zoo.data import DataConfig, eval_loader, load_eval_data
from ssia_zoo.data.preprocessing import model_preprocessing
from ssia_zoo.data.splits import read_labels
from ssia_zoo.evaluation.metrics import evaluate
from ssia_zoo.models.features import TimmModel
from ssia_zoo.models.input_size import check_input_size
from ssia_zoo.models.label_names import match_model


def validate(model: TimmModel, config: DataConfig) -> dict[str, float]:
    """Measure a model in float32, with its own preprocessing, each class of the data by the model's output of its name.

    If the data has some of the model's classes only, as ImageNet-A and ImageNet-R have, the outputs of the others are
    left out, as is usual there; a warning says so.

    Args:
        model: A timm classifier.
        config: The data; its image size, interpolation and crop replace the model's where they are set.

    Returns:
        "top1" and "top5" in percent, "loss" (mean cross-entropy), and "images", the number that could be read.

    Raises:
        ClassesError: If the data has other classes than the model.
        ConfigError: If the model does not take images of this size.
        DataError: If the data cannot be read.
    """
    preprocessing = model_preprocessing(model, config)
    setting = f"`image_size` is {config.image_size}" if config.image_size else None
    check_input_size(model, preprocessing.input_size, setting)
    data = load_eval_data(config)
    used = set(read_labels(data.eval, data.label_column))
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
    model = model.to(accelerator.device)  # not prepared: a process that trains in bf16 would lend it its autocast
    metrics = evaluate(model, batches, accelerator, autocast=False, outputs=outputs)
    return {**metrics, "images": float(len(data.eval) - len(data.unreadable_eval))}
