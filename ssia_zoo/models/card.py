"""Write model cards of published weights and of training runs with huggingface_hub's card classes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from timm.models import get_pretrained_cfg, is_model

from ssia_zoo.data.splits import names_test_split
from ssia_zoo.models.comparison import compare
from ssia_zoo.models.metric_names import METRICS, main_metric, table
from ssia_zoo.models.origin import origin, saved_weights
from ssia_zoo.models.weight import Metrics, PublishedWeight

RECONSTRUCTION = (
    "This SSIA loss is a reconstruction from the abstract of *Self-Supervised Implicit Attention: Guided Attention by "
    "The Model Itself* ([arXiv 2206.07434](https://arxiv.org/abs/2206.07434)). The paper's formulas were not "
    "available; the model does not claim to reproduce its results."
)

CITATION = """```bibtex
@article{wu2022ssia,
  title   = {Self-Supervised Implicit Attention: Guided Attention by The Model Itself},
  author  = {Wu, Jinyi and Gong, Xun and Zhang, Zhemin},
  journal = {arXiv preprint arXiv:2206.07434},
  year    = {2022}
}
```"""

_MOST_LISTED_CLASSES = 20
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)


def weight_card(weight: PublishedWeight, repo_id: str | None) -> str:
    """Make the README.md of a published weight, without network access.

    It does not depend on where the weight was published before, so publishing it again changes nothing.

    Args:
        weight: The weight.
        repo_id: Repository for the examples, ``org/name``; None if it is not known.

    Returns:
        Metadata and text.
    """
    training = weight.training
    base_model = str(training.get("model")) if training.get("pretrained") else None
    data = _card_data(
        name=weight.name,
        ssia=True,
        datasets=[str(training.get("dataset")), weight.dataset.source],
        base_model=base_model,
        license=weight.license,
        evaluated_on=(str(training.get("dataset")), weight.dataset.name, weight.metrics.split),
        top1=weight.metrics.top1,
    )
    text = f"""# {weight.name}

{weight.description.rstrip(".")}.

{_what_it_is(weight.architecture, weight.training)} {origin(base_model, weight.training)}

## Results

{_comparison_text(weight.metrics, _objective(weight.training))}

## Use

{_usage(weight, repo_id)}

**Intended use:** research on training methods, and fine-tuning on data similar to the training data.
**Out of scope:** decisions about people, and any use without an evaluation on your own images.

**Limitations.** {_limits(weight)}

## Classes and preprocessing

{_classes(weight.label_names)}

| input (channels, height, width) | mean | std | interpolation | crop |
|---|---|---|---|---|
| {_numbers(weight.input_size)} | {_numbers(weight.mean)} | {_numbers(weight.std)} | {weight.interpolation} | \
{weight.crop_pct:g} ({weight.crop_mode}) |

`config.json` contains these values; timm's `create_transform(**resolve_model_data_config(model))` and transformers'
`AutoImageProcessor` read them from it.

## Training data and licence

{weight.dataset.name}, from {weight.dataset.source}. Licence of the data: {weight.dataset.license}. Its terms ask you
to: {weight.dataset.terms}. The weights are licensed under `{weight.license}`, as far as the terms of the data allow.

## Reproduce

In a clone of SSIA Zoo, this trains the model and its control for every seed above, and evaluates the published file:

```bash
for seed in {" ".join(str(run.seed) for run in weight.metrics.runs)}; do for method in ssia vanilla; do
    python train_hf.py --config {weight.name} --method $method --seed $seed --output-dir runs/$method-$seed
done; done
ssia-zoo validate {weight.name} --dataset {training.get("dataset")}
```

{_settings(training)}

{_environment(weight.environment)} Results vary slightly with hardware and versions.

## Citation

{CITATION}
"""
    return _render(data, text)


def training_card(
    *,
    architecture: str,
    method: str,
    settings: dict[str, Any],
    metrics: dict[str, float],
    eval_name: str,
    counts: Mapping[str, int],
    environment: dict[str, str],
    base_model: str | None,
    repo_id: str | None,
    objective: str | None = None,
    selection: Mapping[str, Any] | None = None,
) -> str:
    """Make the README.md of a training run.

    Args:
        architecture: Vanilla timm architecture.
        method: Training objective.
        settings: `TrainConfig.decisive_settings()`.
        metrics: Those of `ssia_zoo.evaluation.metrics.evaluate` on the evaluation data.
        eval_name: Name of the evaluation data.
        counts: "images", the number of evaluation images; "unreadable_train" and "unreadable_eval", images left out.
        environment: Versions and machine.
        base_model: The model that was fine-tuned, or None.
        repo_id: Repository for the example, if known.
        objective: Description of another auxiliary objective it was trained with, or None.
        selection: How the evaluation data decided which weights are saved (`Selection.describe()`), or None.

    Returns:
        Metadata and text, without a licence, which only the owner of the run can grant.
    """
    dataset, ssia, main = str(settings["dataset"]), method == "ssia", main_metric(metrics)
    by = f"{_objective(settings)}-trained" if ssia else "trained"
    name = f"{architecture}, {by} on {dataset}"
    data = _card_data(
        name=name,
        ssia=ssia,
        datasets=[dataset],
        # The name in the settings still has the prefix "local-dir:" of a folder.
        base_model=str(settings.get("model", base_model)) if base_model else None,
        license=None,
        evaluated_on=(dataset, dataset, eval_name),
        top1=round(metrics[main], 2),
        metric=main,
        chosen=selection is not None,
    )
    headings, values = table(metrics)
    notes = _several_labels(metrics, eval_name) + _unreadable(counts)
    how = (
        _what_it_is(architecture, settings)
        if ssia
        else f"A timm `{architecture}` trained {_without_ssia(objective)} (method: {method})."
    )
    evaluated_on = eval_name if selection is None else f"{eval_name} (chosen on it)"
    one_run = f"One run with seed {settings['seed']}"
    if not settings.get("probe"):
        one_run += f", {saved_weights(selection)}"
    text = f"""# {name}

{how}

{origin(base_model, settings)}

## Results

| evaluated on | images | {" | ".join(headings)} |
|---|---|{"---|" * len(headings)}
| {evaluated_on} | {counts["images"]} | {" | ".join(values)} |

{notes}{one_run}. A single seed does not show a gain over another method.

## Use

```python
import timm

model = timm.create_model("hf-hub:{repo_id or "ORG/NAME"}", pretrained=True)  # or "local-dir:FOLDER"
```

## Training

`train_hf.py --config settings.yaml --output-dir FOLDER` with these settings:

{_settings(settings)}

{_environment(environment)}

## Limitations

The model knows only the classes of its training data, and was evaluated only on the images named above. The terms of
the training data apply.

## Citation

{CITATION if ssia else "timm: https://github.com/huggingface/pytorch-image-models"}
"""
    return _render(data, text)


# --- Metadata ---------------------------------------------------------------------------------------------------------


def _card_data(
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
) -> ModelCardData:
    """Make the Hub's metadata, which accepts only data sets that are on the Hub.

    `evaluated_on` is the evaluation data's id, name and split.
    """
    on_hub = [dataset for dataset in dict.fromkeys(datasets) if _HUB_ID.fullmatch(dataset)]
    return ModelCardData(
        library_name="timm",
        pipeline_tag="image-classification",
        license=license,
        tags=["image-classification", "timm", "transformers", *(["ssia"] if ssia else [])],
        datasets=on_hub or None,
        base_model=_hub_model_id(base_model) if base_model else None,
        model_name=name,
        eval_results=[
            EvalResult(
                task_type="image-classification",
                dataset_type=evaluated_on[0],
                dataset_name=evaluated_on[1],
                dataset_split=evaluated_on[2],
                metric_type="accuracy" if metric == "top1" else metric,
                metric_name=METRICS[metric] + (" (chosen on these images)" if chosen else ""),
                metric_value=top1,
            )
        ],
    )


def _hub_model_id(model: str) -> str | None:
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
    return name if _HUB_ID.fullmatch(name) else None


def _render(data: ModelCardData, text: str) -> str:
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}"))


# --- Parts of the text ------------------------------------------------------------------------------------------------


def _what_it_is(architecture: str, settings: Mapping[str, Any]) -> str:
    choices = settings.get("ssia") or {}
    name = "the label-free SSIA loss"
    if _uses_labels(settings):
        when = "with a decreasing share" if choices.get("handover") else "as well"
        name = f"SSIA + DSN (labels train the lower layers {when}, arXiv 1409.5185; similar to BYOT, arXiv 1905.08094)"
    supervisors = {
        "memory": "the average of the network's earlier predictions for each image",
        "average": "the predictions of the moving average of the network's weights",
    }
    if supervisor := supervisors.get(choices.get("supervisor", "now")):
        learners = "the lower layers and the final one" if choices.get("top") else "the lower layers"
        name += f"; {learners} learn from {supervisor}"
    return (
        f"A timm `{architecture}` trained with {name}: during training, the network's higher layers guide its lower "
        f"layers. At inference it is identical to the timm model: same parameters, same speed. {RECONSTRUCTION}"
    )


def _objective(settings: Mapping[str, Any]) -> str:
    """Return the name of the loss, which is "SSIA + DSN" if labels train the heads as well."""
    return "SSIA + DSN" if _uses_labels(settings) else "label-free SSIA"


def _uses_labels(settings: Mapping[str, Any]) -> bool:
    return bool((settings.get("ssia") or {}).get("labels", 0) > 0)


def _without_ssia(objective: str | None) -> str:
    if objective is None:
        return "without the SSIA loss"
    return f"without the SSIA loss, but with another auxiliary objective during training: {objective}"


def _unreadable(counts: Mapping[str, int]) -> str:
    train, evaluated = counts["unreadable_train"], counts["unreadable_eval"]
    if not train + evaluated:
        return ""
    return f"Unreadable images that were skipped: {train} in training, {evaluated} in evaluation.\n\n"


def _several_labels(metrics: Mapping[str, float], eval_name: str) -> str:
    if "map" not in metrics:
        return ""
    chosen = "" if names_test_split(eval_name) else ", chosen on these images for the highest micro F1"
    return (
        "An image has any number of the classes: the model was trained with binary cross-entropy per class. A class "
        f"counts as predicted from a probability (sigmoid) of {metrics['threshold']:g}{chosen}. mAP is the mean over "
        "the classes that have an image.\n\n"
    )


def _settings(settings: Mapping[str, Any]) -> str:
    return f"```yaml\n{yaml.safe_dump(json.loads(json.dumps(settings)), sort_keys=False)}```"


def _environment(environment: Mapping[str, str]) -> str:
    return f"Environment: {', '.join(f'{key} {value}' for key, value in environment.items())}."


def _comparison_text(metrics: Metrics, objective: str) -> str:
    """Return the table of all seeds, and what can be concluded from it."""
    result, images = compare(metrics.runs), metrics.images
    rows = [
        f"| {run.seed}{' (this weight)' if run.seed == metrics.seed else ''} | {run.ssia:.2f} | {run.vanilla:.2f} | "
        f"{run.ssia - run.vanilla:+.2f} |"
        for run in metrics.runs
    ]
    rows.append(f"| mean | {result.ssia_mean:.2f} | {result.vanilla_mean:.2f} | {result.difference:+.2f} |")
    if result.spread is not None:
        rows.append(f"| standard deviation | {' | '.join(f'{value:.2f}' for value in result.spread)} |")
    heading = f"| seed | {objective}, % | vanilla control, % | difference, points |"
    table = "\n".join([heading, "|---|---|---|---|", *rows])
    return f"""Top-1 on {images} images ({metrics.split}); one image is {100 / images:.2f} points. The control is the
same training without that loss: same initial weights, data order, settings and budget. The table contains every seed
that was run.

{table}

{result.conclusion()}

The published weights, rounded to float16, reach {metrics.top1:.2f} % when loaded by timm; the control of the same \
seed reaches {metrics.control_top1:.2f} %."""


def _usage(weight: PublishedWeight, repo_id: str | None) -> str:
    timm_name = f"hf-hub:{repo_id}" if repo_id else "local-dir:FOLDER"
    return f"""```python
import timm

model = timm.create_model("{timm_name}", pretrained=True).eval()
```

```python
from transformers import pipeline

pipeline("image-classification", model="{repo_id or "FOLDER"}")("image.png")
```

With SSIA Zoo installed, `import ssia_zoo, timm; timm.create_model("{weight.name}", pretrained=True)` loads the same
weights after checking their sha256."""


def _limits(weight: PublishedWeight) -> str:
    return (
        f"The model assigns one of the {weight.num_classes} classes below to every image. It was evaluated on "
        f"{weight.metrics.images} images of one data set ({weight.metrics.split}) at "
        f"{weight.input_size[1]}×{weight.input_size[2]} pixels only, not on shifted, noisy or adversarial images. It "
        "has the biases of its training data."
    )


def _classes(names: Sequence[str]) -> str:
    if len(names) > _MOST_LISTED_CLASSES:
        return f"{len(names)} classes, listed in the order of the outputs as `label_names` in `config.json`."
    return f"{len(names)} classes, in the order of the outputs: {', '.join(f'`{name}`' for name in names)}."


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
