"""Model cards: what a weight is, how it was trained and what it scores, by huggingface_hub's card classes."""

from __future__ import annotations

import json
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

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


def training_card(
    *,
    architecture: str,
    method: str,
    settings: dict[str, Any],
    metrics: dict[str, float],
    eval_name: str,
    eval_images: int,
    environment: dict[str, str],
    base_model: str | None,
    repo_id: str | None,
) -> str:
    """Make the README.md of a training run.

    Args:
        architecture: Vanilla timm architecture.
        method: Training objective.
        settings: The run's settings, `TrainConfig.experiment()`.
        metrics: "top1" and "top5" in percent and "loss", on the evaluation split.
        eval_name: What it was evaluated on.
        eval_images: How many images that is.
        environment: Versions and machine.
        base_model: What was fine-tuned, or None.
        repo_id: Repository that it goes to, if known.

    Returns:
        Metadata and text; no licence is stated, as only the owner of a run can grant one.
    """
    dataset = str(settings["dataset"])
    is_hub_dataset = dataset.count("/") == 1 and not dataset.startswith((".", "/"))
    name = f"{architecture}, {'SSIA-trained' if method == 'ssia' else 'trained'} on {dataset}"
    data = ModelCardData(
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["image-classification", "timm", "transformers", *(["ssia"] if method == "ssia" else [])],
        datasets=[dataset] if is_hub_dataset else None,
        model_name=name,
        base_model=base_model if base_model and "/" in base_model else None,
        eval_results=[
            EvalResult(
                task_type="image-classification",
                dataset_type=dataset,
                dataset_name=dataset,
                dataset_split=eval_name,
                metric_type="accuracy",
                metric_name="top-1",
                metric_value=round(metrics["top1"], 2),
            )
        ],
    )
    how = (
        f"Trained with the SSIA loss: signals of the network's own higher layers guide its lower layers, in training "
        f"only. It *is* a timm `{architecture}`: same parameters, same speed. {RECONSTRUCTION}"
        if method == "ssia"
        else f"A timm `{architecture}` trained without the SSIA loss (`--method {method}`)."
    )
    start = f"Fine-tuned from `{base_model}`." if base_model else "Trained from scratch."
    text = f"""# {name}

{how}

{start}

## Measured

| evaluated on | images | top-1, % | top-5, % | loss |
|---|---|---|---|---|
| {eval_name} | {eval_images} | {metrics["top1"]:.2f} | {metrics["top5"]:.2f} | {metrics["loss"]:.4f} |

One run, seed {settings["seed"]}, the weights after the last epoch. One seed proves no gain over another method.

## Use

```python
import timm

model = timm.create_model("hf-hub:{repo_id or "ORG/NAME"}", pretrained=True)  # or "local-dir:FOLDER"
```

## How it was trained

`train_hf.py --config settings.yaml --output-dir FOLDER`, with these settings:

```yaml
{_yaml(settings)}```

Environment: {", ".join(f"{key} {value}" for key, value in environment.items())}.

## Limits

It knows the classes of its training data alone and was measured on the images named above, on nothing else. The terms
of the training data apply to it.

## Citation

{CITATION if method == "ssia" else "timm: https://github.com/huggingface/pytorch-image-models"}
"""
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}"))


def _yaml(settings: dict[str, Any]) -> str:
    return str(yaml.safe_dump(json.loads(json.dumps(settings)), sort_keys=False))
