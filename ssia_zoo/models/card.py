"""Model cards: what a weight is, how it was trained and what it scores, by huggingface_hub's card classes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from timm.models import get_pretrained_cfg, is_model

from ssia_zoo.models.comparison import compare
from ssia_zoo.models.weight import HubConfig, Metrics

RECONSTRUCTION = (
    "The SSIA loss used here is a reconstruction from the abstract of *Self-Supervised Implicit Attention: Guided "
    "Attention by The Model Itself* ([arXiv 2206.07434](https://arxiv.org/abs/2206.07434)); the paper's formulas were "
    "not available, and nothing here is claimed to reproduce its results."
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


def weight_card(config: HubConfig, repo_id: str | None) -> str:
    """Make the README.md of a published weight; needs no network.

    Nothing of where the weight has been published before is in it, so publishing it again changes nothing.

    Args:
        config: The weight.
        repo_id: Repository that it goes to, ``org/name``; None if that is not known.

    Returns:
        Metadata and text.
    """
    training = config.training
    base_model = str(training.get("model")) if training.get("pretrained") else None
    data = _card_data(
        name=config.name,
        ssia=True,
        datasets=[str(training.get("dataset")), config.dataset.source],
        base_model=base_model,
        license=config.license,
        evaluated=EvalResult(
            task_type="image-classification",
            dataset_type=str(training.get("dataset")),
            dataset_name=config.dataset.name,
            dataset_split=config.metrics.split,
            metric_type="accuracy",
            metric_name="top-1",
            metric_value=config.metrics.top1,
        ),
    )
    text = f"""# {config.name}

{config.description.rstrip(".")}.

{_what_it_is(config.architecture, config.training)} {_start(base_model)}

## Measured against its vanilla control

{_comparison_text(config.metrics, _objective(config.training))}

## Use

{_usage(config, repo_id)}

**Meant for** research on training methods, and as a starting point for fine-tuning on data like those below.
**Not meant for** decisions about people, nor for use without measuring it on your own images first.

**Limits.** {_limits(config)}

## Classes and preprocessing

{_classes(config.label_names)}

| input (channels, height, width) | mean | std | interpolation | crop |
|---|---|---|---|---|
| {_numbers(config.input_size)} | {_numbers(config.mean)} | {_numbers(config.std)} | {config.interpolation} | \
{config.crop_pct:g} ({config.crop_mode}) |

These are in `config.json`: timm's `create_transform(**resolve_model_data_config(model))` and transformers'
`AutoImageProcessor` take them from there.

## Training data and licence

{config.dataset.name}, from {config.dataset.source}. Its licence: {config.dataset.license}; its terms ask you to:
{config.dataset.terms}. The weight itself is under `{config.license}`, as far as the terms of the data allow.

## Reproduce

From a clone of SSIA Zoo; this trains the weight and its control for every seed above, then measures the published file:

```bash
for seed in {" ".join(str(run.seed) for run in config.metrics.runs)}; do for method in ssia vanilla; do
    python train_hf.py --config {config.name} --method $method --seed $seed --output-dir runs/$method-$seed
done; done
ssia-zoo validate {config.name} --dataset {training.get("dataset")}
```

{_settings(training)}

{_environment(config.environment)} Another machine or other versions round differently and give other last digits.

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
) -> str:
    """Make the README.md of a training run.

    Args:
        architecture: Vanilla timm architecture.
        method: Training objective.
        settings: The run's settings, `TrainConfig.decisive_settings()`.
        metrics: "top1" and "top5" in percent and "loss", on the evaluation split.
        eval_name: What it was evaluated on.
        counts: "images" that it was evaluated on; "unreadable_train" and "unreadable_eval", left out.
        environment: Versions and machine.
        base_model: What was fine-tuned, or None.
        repo_id: Repository that it goes to, if known.
        objective: Source of a rival's objective that it was trained with, or None.

    Returns:
        Metadata and text; no licence is stated, as only the owner of a run can grant one.
    """
    dataset, ssia = str(settings["dataset"]), method == "ssia"
    by = f"{_objective(settings)}-trained" if ssia else "trained"
    name = f"{architecture}, {by} on {dataset}"
    data = _card_data(
        name=name,
        ssia=ssia,
        datasets=[dataset],
        # The settings' name tells a folder from a model of timm's; `base_model` has lost its prefix.
        base_model=str(settings.get("model", base_model)) if base_model else None,
        license=None,
        evaluated=EvalResult(
            task_type="image-classification",
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split=eval_name,
            metric_type="accuracy",
            metric_name="top-1",
            metric_value=round(metrics["top1"], 2),
        ),
    )
    how = (
        _what_it_is(architecture, settings)
        if ssia
        else f"A timm `{architecture}` trained {_without_ssia(objective)} (`--method {method}`)."
    )
    text = f"""# {name}

{how}

{_start(base_model)}

## Measured

| evaluated on | images | top-1, % | top-5, % | loss |
|---|---|---|---|---|
| {eval_name} | {counts["images"]} | {metrics["top1"]:.2f} | {metrics["top5"]:.2f} | {metrics["loss"]:.4f} |

{_unreadable(counts)}One run, seed {settings["seed"]}, the weights after the last step. One seed proves no gain \
over another method.

## Use

```python
import timm

model = timm.create_model("hf-hub:{repo_id or "ORG/NAME"}", pretrained=True)  # or "local-dir:FOLDER"
```

## How it was trained

`train_hf.py --config settings.yaml --output-dir FOLDER`, with these settings:

{_settings(settings)}

{_environment(environment)}

## Limits

It knows the classes of its training data alone and was measured on the images named above, on nothing else. The terms
of the training data apply to it.

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
    evaluated: EvalResult,
) -> ModelCardData:
    """The Hub's metadata; of the data sets those alone that are on the Hub, as it refuses other names."""
    on_hub = [dataset for dataset in dict.fromkeys(datasets) if _HUB_ID.fullmatch(dataset)]
    return ModelCardData(
        library_name="timm",
        pipeline_tag="image-classification",
        license=license,
        tags=["image-classification", "timm", "transformers", *(["ssia"] if ssia else [])],
        datasets=on_hub or None,
        base_model=_hub_model_id(base_model) if base_model else None,
        model_name=name,
        eval_results=[evaluated],
    )


def _hub_model_id(model: str) -> str | None:
    """The Hub's id of a model as timm names it; None for a folder and for what is not on the Hub."""
    source, _, name = model.rpartition(":")
    if source == "local-dir":
        return None
    if not source and is_model(name):
        try:
            name = getattr(get_pretrained_cfg(name), "hf_hub_id", None) or ""
        except RuntimeError:  # the architecture is registered without this tag: a weight of somebody's own
            return None
    name = name.split("@", 1)[0]
    return name if _HUB_ID.fullmatch(name) else None


def _render(data: ModelCardData, text: str) -> str:
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}"))


# --- Parts of the text ------------------------------------------------------------------------------------------------


def _what_it_is(architecture: str, settings: Mapping[str, Any]) -> str:
    choices = settings.get("ssia") or {}
    name = "the SSIA loss"
    if _objective(settings) != "SSIA":
        when = "at first, and less and less" if choices.get("handover") else "too"
        name = f"SSIA + DSN (the labels teach the lower layers {when}, arXiv 1409.5185; near BYOT, arXiv 1905.08094)"
    if choices.get("supervisor") == "memory":
        learners = "they and the final layer" if choices.get("top") else "they"
        name += f"; {learners} learn from the average of the network's own earlier predictions for each image"
    return (
        f"Trained with {name}: signals of the network's own higher layers guide its lower layers, in training "
        f"only. It *is* a timm `{architecture}`: same parameters, same speed. {RECONSTRUCTION}"
    )


def _objective(settings: Mapping[str, Any]) -> str:
    """What the loss is called: where labels teach the SSIA heads, too, it is no longer SSIA alone."""
    return "SSIA + DSN" if (settings.get("ssia") or {}).get("labels", 0) > 0 else "SSIA"


def _without_ssia(objective: str | None) -> str:
    if objective is None:
        return "without the SSIA loss"
    return f"without the SSIA loss, with another auxiliary objective in training only: {objective}"


def _start(base_model: str | None) -> str:
    return f"Fine-tuned from `{base_model}`." if base_model else "Trained from scratch."


def _unreadable(counts: Mapping[str, int]) -> str:
    train, evaluated = counts["unreadable_train"], counts["unreadable_eval"]
    if not train + evaluated:
        return ""
    return f"Images that could not be read and were skipped: {train} to train on, {evaluated} to evaluate on.\n\n"


def _settings(settings: Mapping[str, Any]) -> str:
    return f"```yaml\n{yaml.safe_dump(json.loads(json.dumps(settings)), sort_keys=False)}```"


def _environment(environment: Mapping[str, str]) -> str:
    return f"Environment: {', '.join(f'{key} {value}' for key, value in environment.items())}."


def _comparison_text(metrics: Metrics, objective: str) -> str:
    """The table of all seeds and what may be concluded from it."""
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
    return f"""Top-1 on {images} images ({metrics.split}); one image is {100 / images:.2f} points. The control is
the same training without that loss: same initial weights, data order, settings and budget. Every seed that was run
is here, whichever is ahead.

{table}

{result.conclusion()}

The published file, rounded to float16, scores {metrics.top1:.2f} % as plain timm loads it; the control of the same \
seed {metrics.control_top1:.2f} %."""


def _usage(config: HubConfig, repo_id: str | None) -> str:
    timm_name = f"hf-hub:{repo_id}" if repo_id else "local-dir:FOLDER"
    return f"""```python
import timm

model = timm.create_model("{timm_name}", pretrained=True).eval()
```

```python
from transformers import pipeline

pipeline("image-classification", model="{repo_id or "FOLDER"}")("image.png")
```

With SSIA Zoo installed, `import ssia_zoo, timm; timm.create_model("{config.name}", pretrained=True)` gives the same
weights, and checks their sha256 first."""


def _limits(config: HubConfig) -> str:
    return (
        f"It knows the {config.num_classes} classes below and nothing else: any image gets one of them. It was "
        f"measured on {config.metrics.images} images of one data set ({config.metrics.split}), not on shifted, noisy "
        f"or adversarial ones. What is skewed in its training data is skewed in it. Other sizes than "
        f"{config.input_size[1]}×{config.input_size[2]} pixels were not measured."
    )


def _classes(names: Sequence[str]) -> str:
    if len(names) > _MOST_LISTED_CLASSES:
        return f"{len(names)} classes; `label_names` in `config.json` lists them in the order of the outputs."
    return f"{len(names)} classes, in the order of the outputs: {', '.join(f'`{name}`' for name in names)}."


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
