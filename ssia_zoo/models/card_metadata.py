"""The metadata of model cards, by huggingface_hub's classes."""

from __future__ import annotations

import re
from collections.abc import Sequence

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData, eval_result_entries_to_yaml
from timm.models import get_pretrained_cfg, is_model

from ssia_zoo.models.metric_names import METRICS
from ssia_zoo.models.weight import PublishedWeight

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)


def card_data(
    *,
    name: str,
    ssia: bool,
    datasets: Sequence[str],
    base_model: str | None,
    license: str | None,
    evaluated_on: tuple[str, str, str],
    top1: float,
    metric: str = "top1",
    chosen: bool = False,
    rgb: bool = True,
) -> ModelCardData:
    """Make the Hub's metadata, which accepts only data sets that are on the Hub.

    `evaluated_on` is the evaluation data's id, name and split. A model that does not take RGB has no tag
    "transformers", whose pipeline converts to RGB.
    """
    on_hub = [dataset for dataset in dict.fromkeys(datasets) if is_hub_id(dataset)]
    started_from = hub_model_id(base_model) if base_model else None
    return ModelCardData(
        library_name="timm",
        pipeline_tag="image-classification",
        license=license,
        tags=["image-classification", "timm", *(["transformers"] if rgb else []), *(["ssia"] if ssia else [])],
        datasets=on_hub or None,
        base_model=started_from,
        base_model_relation="finetune" if started_from else None,
        model_name=name,
        eval_results=[
            EvalResult(
                task_type="image-classification",
                task_name="Image Classification",
                dataset_type=evaluated_on[0],
                dataset_name=evaluated_on[1],
                dataset_split=evaluated_on[2],
                metric_type="accuracy" if metric == "top1" else metric,
                metric_name=METRICS[metric] + (" (chosen on these images)" if chosen else ""),
                metric_value=top1,
            )
        ],
    )


def is_hub_id(name: str) -> bool:
    """Whether a data set's or model's name has the form of one on the Hub, ``org/name``."""
    return _HUB_ID.fullmatch(name) is not None


def hub_model_id(model: str) -> str | None:
    """Return the Hub's id of a model name; None for a folder or another model that is not on the Hub."""
    source, _, name = model.rpartition(":")
    if source == "local-dir":
        return None
    if not source and is_model(name):
        try:
            name = getattr(get_pretrained_cfg(name), "hf_hub_id", None) or ""
        except RuntimeError:  # timm has the architecture, but not this tag
            return None
    name = name.split("@", 1)[0]
    return name if is_hub_id(name) else None


def eval_results(weight: PublishedWeight) -> str | None:
    """Return a weight's result as the Hub's `.eval_results/*.yaml`; None if its images are not those of the Hub.

    The Hub shows it on the data set's leaderboard if the data set is a benchmark with this task; its tasks are the
    configurations of the data set.
    """
    dataset, metrics = str(weight.training.get("dataset")), weight.metrics
    if not is_hub_id(dataset) or not weight.dataset.unchanged:
        return None
    entry = EvalResultEntry(
        dataset_id=dataset,
        task_id=str(weight.training.get("dataset_config") or "default"),
        value=metrics.top1,
        notes=f"top-1, percent of {metrics.images} images of {metrics.split} at "
        f"{weight.input_size[1]}x{weight.input_size[2]}; seed {metrics.seed} of {len(metrics.runs)} that were run; "
        f"the control without SSIA reaches {metrics.control_top1:.2f}",
    )
    return yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False)


def render(data: ModelCardData, text: str) -> str:
    """Return a card's file."""
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}"))
