"""Write model cards of published weights and of training runs with huggingface_hub's card classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssia_zoo.models import card_metadata, card_text
from ssia_zoo.models.metric_names import main_metric, table
from ssia_zoo.models.origin import origin, saved_weights
from ssia_zoo.models.reproduce import flags, legend, needed_folders
from ssia_zoo.models.stats import model_stats
from ssia_zoo.models.weight import PublishedWeight


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
    data = card_metadata.card_data(
        name=weight.name,
        ssia=True,
        datasets=[str(training.get("dataset")), weight.dataset.source],
        base_model=base_model,
        license=weight.license,
        evaluated_on=(str(training.get("dataset")), weight.dataset.name, weight.metrics.split),
        top1=weight.metrics.top1,
    )
    stats = model_stats(weight.architecture, weight.num_classes, weight.input_size)
    needed = needed_folders(weight)
    folders = {folder.setting: folder.placeholder for folder in needed}
    dataset = folders.get("dataset", training.get("dataset"))
    split = f" --eval-split {training['eval_split']}" if training.get("eval_split") else ""
    meaning = "".join(f"\n- {line}" for line in legend(needed)) + "\n" * bool(needed)
    size, mean, std = (card_text.numbers(values) for values in (weight.input_size, weight.mean, weight.std))
    text = f"""# {weight.name}

{weight.description.rstrip(".")}.

{card_text.what_it_is(weight.architecture, weight.training)} {origin(base_model, weight.training)}

## Model details

{card_text.details(stats, base_model, weight.dataset)}

## Results

{card_text.comparison(weight.metrics, card_text.objective(weight.training))}

## Use

{card_text.usage(weight, repo_id)}

**Intended use:** research on training methods, and fine-tuning on data similar to the training data.
**Out of scope:** decisions about people, and any use without an evaluation on your own images.

**Limitations.** {card_text.limits(weight)}

## Classes and preprocessing

{card_text.classes(weight.label_names)}

| input (channels, height, width) | mean | std | interpolation | crop |
|---|---|---|---|---|
| {size} | {mean} | {std} | {weight.interpolation} | {weight.crop_pct:g} ({weight.crop_mode}) |

`config.json` contains these values; timm's `create_transform(**resolve_model_data_config(model))` and transformers'
`AutoImageProcessor` read them from it.

## Training data and licence

{card_text.dataset_link(weight.dataset)}. Licence of the data: {weight.dataset.license}. Its terms ask you
to: {weight.dataset.terms}. The weights are licensed under `{weight.license}`, as far as the terms of the data allow.

## Reproduce

In a clone of SSIA Zoo, this trains the model and its control for every seed above, and evaluates the published file:

```bash
for seed in {" ".join(str(run.seed) for run in weight.metrics.runs)}; do for method in ssia vanilla; do
    python train_hf.py --config {weight.name}{flags(needed)} --method $method --seed $seed \\
        --output-dir runs/$method-$seed
done; done
ssia-zoo validate {weight.name} --dataset {dataset}{split}
```
{meaning}
{card_text.settings(training)}

{card_text.environment(weight.environment)} Results vary slightly with hardware and versions.

## Citation

{card_text.CITATION}
"""
    return card_metadata.render(data, text)


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
    objective: str | None = None,
    selection: Mapping[str, Any] | None = None,
    unfinished: str | None = None,
) -> str:
    """Make the README.md of a training run, with placeholders for the repository, which publishing fills in.

    Args:
        architecture: Vanilla timm architecture.
        method: Training objective.
        settings: `TrainConfig.decisive_settings()`.
        metrics: Those of `ssia_zoo.evaluation.metrics.evaluate` on the evaluation data.
        eval_name: Name of the evaluation data.
        counts: "images", the number of evaluation images; "unreadable_train" and "unreadable_eval", images left out.
        environment: Versions and machine.
        base_model: The model that was fine-tuned, or None.
        objective: Description of another auxiliary objective it was trained with, or None.
        selection: How the evaluation data decided which weights are saved (`Selection.describe()`), or None.
        unfinished: Where a training that goes on is, such as "step 3 of 9", or None.

    Returns:
        Metadata and text, without a licence, which only the owner of the run can grant.
    """
    dataset, ssia, main = str(settings["dataset"]), method == "ssia", main_metric(metrics)
    by = f"{card_text.objective(settings)}-trained" if ssia else "trained"
    name = f"{architecture}, {by} on {dataset}"
    data = card_metadata.card_data(
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
        rgb=(settings.get("in_chans") or 3) == 3,
    )
    headings, values = table(metrics)
    notes = card_text.several_labels(metrics, eval_name) + card_text.unreadable(counts)
    how = (
        card_text.what_it_is(architecture, settings)
        if ssia
        else f"A {card_text.network(architecture, settings)} trained {card_text.without_ssia(objective)} "
        f"(method: {method})."
    )
    evaluated_on = eval_name if selection is None else f"{eval_name} (chosen on it)"
    one_run = f"One run with seed {settings['seed']}"
    if not settings.get("probe"):
        one_run += f", {saved_weights(selection, unfinished)}"
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

model = timm.create_model("hf-hub:ORG/NAME", pretrained=True)  # or "local-dir:FOLDER"
```

{card_text.channels(settings)}## Training

To repeat it, save these settings as `settings.yaml` and run `train_hf.py --config settings.yaml --output-dir FOLDER`:

{card_text.settings(settings)}

{card_text.environment(environment)}

## Limitations

The model knows only the classes of its training data, and was evaluated only on the images named above. The terms of
the training data apply.

## Citation

{card_text.CITATION if ssia else "timm: https://github.com/huggingface/pytorch-image-models"}
"""
    return card_metadata.render(data, text)
