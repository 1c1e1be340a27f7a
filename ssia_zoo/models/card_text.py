"""Parts of the text of model cards."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from ssia_zoo.data.splits import names_test_split
from ssia_zoo.models.card_metadata import hub_model_id, is_hub_id
from ssia_zoo.models.comparison import compare
from ssia_zoo.models.stats import ModelStats
from ssia_zoo.models.weight import DatasetTerms, Metrics, PublishedWeight

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

_PREPARE = """
data_config = timm.data.resolve_model_data_config(model)
transforms = timm.data.create_transform(**data_config, is_training=False)
image = Image.open("image.png").convert("RGB")
"""

_CLASSIFY = f"""### Image classification

```python
import timm
from PIL import Image

model = timm.create_model("{{name}}", pretrained=True).eval()
{_PREPARE}
probabilities = model(transforms(image).unsqueeze(0)).softmax(dim=1)
```
"""

_FEATURE_MAPS = f"""### Feature map extraction

```python
import timm
from PIL import Image

model = timm.create_model("{{name}}", pretrained=True, features_only=True).eval()
{_PREPARE}
for feature_map in model(transforms(image).unsqueeze(0)):
    print(feature_map.shape)
```
"""

_EMBEDDINGS = f"""### Image embeddings

```python
import timm
from PIL import Image

model = timm.create_model("{{name}}", pretrained=True, num_classes=0).eval()
{_PREPARE}
embedding = model(transforms(image).unsqueeze(0))  # (1, model.num_features)
# or: model.forward_head(model.forward_features(transforms(image).unsqueeze(0)), pre_logits=True)
```
"""


def network(architecture: str, settings: Mapping[str, Any]) -> str:
    """Name a timm network, with the arguments that make it another one than timm's of that name."""
    given = settings.get("model_kwargs") or {}
    return f"timm `{architecture}`" + (f" with `{', '.join(f'{k}={v}' for k, v in given.items())}`" if given else "")


def channels(settings: Mapping[str, Any]) -> str:
    """Say which images a model takes whose input is not RGB; empty for RGB."""
    mode = {1: "L", 4: "RGBA"}.get(settings.get("in_chans") or 3)
    return f'The model takes images of mode {mode}: use `image.convert("{mode}")`.\n\n' if mode else ""


def what_it_is(architecture: str, settings: Mapping[str, Any]) -> str:
    """Describe the loss that a model was trained with."""
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
        f"A {network(architecture, settings)} trained with {name}: during training, the network's higher layers guide "
        f"its lower layers. At inference it is that timm model: same parameters, same speed. {RECONSTRUCTION}"
    )


def objective(settings: Mapping[str, Any]) -> str:
    """Return the name of the loss, which is "SSIA + DSN" if labels train the heads as well."""
    return "SSIA + DSN" if _uses_labels(settings) else "label-free SSIA"


def _uses_labels(settings: Mapping[str, Any]) -> bool:
    return bool((settings.get("ssia") or {}).get("labels", 0) > 0)


def without_ssia(objective: str | None) -> str:
    """Describe a training without SSIA, and its auxiliary objective if it had one."""
    if objective is None:
        return "without the SSIA loss"
    return f"without the SSIA loss, but with another auxiliary objective during training: {objective}"


def unreadable(counts: Mapping[str, int]) -> str:
    """State how many images were skipped; empty if none was."""
    train, evaluated = counts["unreadable_train"], counts["unreadable_eval"]
    if not train + evaluated:
        return ""
    return f"Unreadable images that were skipped: {train} in training, {evaluated} in evaluation.\n\n"


def several_labels(metrics: Mapping[str, float], eval_name: str) -> str:
    """Explain the metrics of several labels an image; empty for one label."""
    if "map" not in metrics:
        return ""
    chosen = "" if names_test_split(eval_name) else ", chosen on these images for the highest micro F1"
    return (
        "An image has any number of the classes: the model was trained with binary cross-entropy per class. A class "
        f"counts as predicted from a probability (sigmoid) of {metrics['threshold']:g}{chosen}. mAP is the mean over "
        "the classes that have an image.\n\n"
    )


def settings(settings: Mapping[str, Any]) -> str:
    """Return settings as a YAML block."""
    return f"```yaml\n{yaml.safe_dump(json.loads(json.dumps(settings)), sort_keys=False)}```"


def environment(environment: Mapping[str, str]) -> str:
    """Return versions and machine as a sentence."""
    return f"Environment: {', '.join(f'{key} {value}' for key, value in environment.items())}."


def comparison(metrics: Metrics, objective: str) -> str:
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


def details(stats: ModelStats, base_model: str | None, dataset: DatasetTerms) -> str:
    """Return timm's list of a model's details, with links to its base model and its data on the Hub."""
    started_from = hub_model_id(base_model) if base_model else None
    lines = [
        "- **Model Type:** image classification / feature backbone",
        "- **Model Stats:**",
        *(f"  {row}" for row in stats.rows()),
        f"- **Dataset:** {dataset_link(dataset)}",
    ]
    if started_from is not None:
        lines.append(f"- **Base model:** [{started_from}](https://huggingface.co/{started_from})")
    return "\n".join(lines)


def dataset_link(dataset: DatasetTerms) -> str:
    """Return a data set's name and source, as a link if it is on the Hub."""
    if not is_hub_id(dataset.source):
        return f"{dataset.name}, from {dataset.source}"
    return f"{dataset.name}, from [{dataset.source}](https://huggingface.co/datasets/{dataset.source})"


def usage(weight: PublishedWeight, repo_id: str | None) -> str:
    """Return timm's examples (classify, feature maps, embeddings) and transformers'."""
    timm_name = f"hf-hub:{repo_id}" if repo_id else "local-dir:FOLDER"
    examples = "\n".join(example.format(name=timm_name) for example in (_CLASSIFY, _FEATURE_MAPS, _EMBEDDINGS))
    return f"""{examples}
### transformers

```python
from transformers import pipeline

pipeline("image-classification", model="{repo_id or "FOLDER"}")("image.png")
```

With SSIA Zoo installed, `import ssia_zoo, timm; timm.create_model("{weight.name}", pretrained=True)` loads the same
weights after checking their sha256."""


def limits(weight: PublishedWeight) -> str:
    """State what the evaluation does not cover."""
    return (
        f"The model assigns one of the {weight.num_classes} classes below to every image. It was evaluated on "
        f"{weight.metrics.images} images of one data set ({weight.metrics.split}) at "
        f"{weight.input_size[1]}×{weight.input_size[2]} pixels only, not on shifted, noisy or adversarial images. It "
        "has the biases of its training data. As frozen features for other data, networks trained with this loss were "
        "mostly worse than their controls: by up to 4.6 points in linear probes (benchmarks/accuracy.md of SSIA Zoo)."
    )


def classes(names: Sequence[str]) -> str:
    """List the classes, or count them if there are many."""
    if len(names) > _MOST_LISTED_CLASSES:
        return f"{len(names)} classes, listed in the order of the outputs as `label_names` in `config.json`."
    return f"{len(names)} classes, in the order of the outputs: {', '.join(f'`{name}`' for name in names)}."


def numbers(values: Sequence[float]) -> str:
    """Return numbers with four digits, separated by commas."""
    return ", ".join(f"{value:.4g}" for value in values)
