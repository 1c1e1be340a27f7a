"""Evaluate any timm classifier on any data set that training reads."""

from __future__ import annotations

import logging

from accelerate import Accelerator

from ssia_zoo.data import DataConfig, eval_loader, load_eval_data
from ssia_zoo.data.label_lists import read_classes
from ssia_zoo.data.preprocessing import model_preprocessing
from ssia_zoo.evaluation.metrics import evaluate
from ssia_zoo.evaluation.multi_label import DEFAULT_THRESHOLD, build_evaluator
from ssia_zoo.models.features import TimmModel, try_blank_image
from ssia_zoo.models.label_names import match_model, multi_label_threshold

_log = logging.getLogger(__name__)


def validate(model: TimmModel, config: DataConfig) -> dict[str, float]:
    """Evaluate a model in float32 with its own preprocessing; classes are matched by name.

    If the data has only some of the model's classes, as ImageNet-A and ImageNet-R do, the outputs of the other classes
    are left out and a warning is logged.

    Args:
        model: A timm classifier.
        config: The data; its image size, interpolation and crop, if set, replace the model's.

    Returns:
        "top1" and "top5" in percent, "loss" (mean cross-entropy), and "images", the number of readable images. For
        several labels an image, the metrics of `MultiLabelEvaluator` at the model's threshold.

    Raises:
        ClassesError: If the classes of the data are not the model's.
        ConfigError: If the model cannot take images of this size.
        DataError: If the data cannot be read.
    """
    preprocessing = model_preprocessing(model, config)
    try_blank_image(model, preprocessing.input_size)
    data = load_eval_data(config)
    used = read_classes(data.eval, data.label_column)
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
    if data.multi_label and multi_label_threshold(model) is None:
        _log.warning(
            "the images have several labels, but the model was trained for one (config.json has no problem_type "
            "multi_label_classification); F1 is measured at %g",
            DEFAULT_THRESHOLD,
        )
    evaluator = build_evaluator(data, accelerator.device, multi_label_threshold(model) or DEFAULT_THRESHOLD)
    metrics = evaluate(model, batches, accelerator, autocast=False, outputs=outputs, evaluator=evaluator)
    return {**metrics, "images": float(len(data.eval) - len(data.unreadable_eval))}
