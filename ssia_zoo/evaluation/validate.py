"""Evaluate any timm classifier on any data set that training reads."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator

from ssia_zoo.data import DataConfig, EvalData, eval_loader, load_eval_data
from ssia_zoo.data.channels import report_conversions
from ssia_zoo.data.label_lists import read_classes
from ssia_zoo.data.preprocessing import Preprocessing, model_preprocessing
from ssia_zoo.evaluation.metrics import evaluate
from ssia_zoo.evaluation.multi_label import DEFAULT_THRESHOLD, build_evaluator
from ssia_zoo.models.features import TimmModel, try_blank_image
from ssia_zoo.models.label_names import match_model, multi_label_threshold

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A model, and the images to evaluate it on with its own preprocessing."""

    model: TimmModel
    data: EvalData
    preprocessing: Preprocessing
    loader: Any
    """From `ssia_zoo.data.eval_loader`."""
    outputs: tuple[int, ...] | None
    """The model's output for each class of the data, from `match_model`."""


def prepare_evaluation(model: TimmModel, config: DataConfig, *, by_position: bool = True) -> Evaluation:
    """Load the evaluation images, and match the model's outputs to their classes by name.

    If the data has only some of the model's classes, as ImageNet-A and ImageNet-R do, the outputs of the other classes
    are left out and a warning is logged.

    Args:
        model: A timm classifier.
        config: The data; its image size, interpolation and crop, if set, replace the model's.
        by_position: Whether to match classes by position if names are missing; else that is an error.

    Raises:
        ClassesError: If the classes of the data are not the model's.
        ConfigError: If the model cannot take images of this size.
        DataError: If the data cannot be read.
    """
    preprocessing = model_preprocessing(model, config)
    try_blank_image(model, preprocessing.input_size)
    data = load_eval_data(config)
    used = read_classes(data.eval, data.label_column)
    report_conversions(data.eval, data.image_column, preprocessing.input_size[0])
    outputs = match_model(model, data.label_names, config.dataset, used, by_position=by_position)
    loader = eval_loader(
        data,
        preprocessing.applied_to(config),
        mean=preprocessing.mean,
        std=preprocessing.std,
        input_size=preprocessing.input_size,
    )
    return Evaluation(model=model, data=data, preprocessing=preprocessing, loader=loader, outputs=outputs)


def validate(model: TimmModel, config: DataConfig) -> dict[str, float]:
    """Evaluate a model in float32; see `prepare_evaluation` for preprocessing, classes and errors.

    Args:
        model: A timm classifier.
        config: The data.

    Returns:
        "top1" and "top5" in percent, "loss" (mean cross-entropy), and "images", the number of readable images. For
        several labels an image, the metrics of `MultiLabelEvaluator` at the model's threshold.
    """
    evaluation = prepare_evaluation(model, config)
    accelerator = Accelerator()
    batches = accelerator.prepare(evaluation.loader)
    model = model.to(accelerator.device)  # not prepared, which would add a training's autocast
    data, threshold = evaluation.data, multi_label_threshold(model)
    if data.multi_label and threshold is None:
        _log.warning(
            "the images have several labels, but the model was trained for one (config.json has no problem_type "
            "multi_label_classification); F1 is measured at %g",
            DEFAULT_THRESHOLD,
        )
    evaluator = build_evaluator(data, accelerator.device, threshold or DEFAULT_THRESHOLD)
    metrics = evaluate(model, batches, accelerator, autocast=False, outputs=evaluation.outputs, evaluator=evaluator)
    return {**metrics, "images": float(len(data.eval) - len(data.unreadable_eval))}
