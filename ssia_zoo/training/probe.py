"""Linear probe (`probe`): fit the classifier alone, on features of the frozen network that are computed once."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn
from tqdm.auto import tqdm

from ssia_zoo.data import NOT_COUNTED, ImageData, eval_loader, load_image_data
from ssia_zoo.data.preprocessing import Preprocessing
from ssia_zoo.data.splits import stratified
from ssia_zoo.errors import ConfigError
from ssia_zoo.evaluation.metrics import evaluate
from ssia_zoo.models.features import TimmModel
from ssia_zoo.training.config import TrainConfig
from ssia_zoo.training.folder import RunFolder
from ssia_zoo.training.methods import check_multi_label
from ssia_zoo.training.model import build_model
from ssia_zoo.training.progress import log_commands

_log = logging.getLogger(__name__)

_WEIGHT_DECAYS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 3e-4, 1e-4, 3e-5, 1e-5)
"""L2 regularization to choose from, strongest first, for the mean loss over standardized features."""
_HELD_OUT = 5
"""One of this many training images is held out to choose the regularization."""
_STEPS = 200


def train_probe(config: TrainConfig, accelerator: Accelerator) -> dict[str, float]:
    """Fit the classifier of a pretrained model to its features, and write the output folder of a run.

    The regularization is chosen on a fifth of the training images; the classifier is then fitted to all of them. The
    evaluation split is used once, at the end.

    Args:
        config: Settings.
        accelerator: The device; one process.

    Returns:
        "top1" and "top5" in percent and "loss" of the saved weights on the evaluation split, in float32.

    Raises:
        SSIAZooError: If the data or the model cannot be used, or the folder holds other files.
    """
    if accelerator.num_processes > 1:
        raise ConfigError(f"`probe` runs in one process, not {accelerator.num_processes}")
    start = time.monotonic()
    config = replace(config, method="vanilla")  # there is no training for an auxiliary objective
    folder = RunFolder(config, accelerator)
    try:
        data = load_image_data(config)
        if data.multi_label:
            check_multi_label(config)
        set_seed(config.seed)
        model, preprocessing = build_model(config, len(data.label_names), data.label_names)
        classifier = _classifier(model, config.model)
        folder.describe(data, preprocessing, config.ssia)
        model.to(accelerator.device).eval()
        features, labels = _train_features(config, data, model, classifier, preprocessing, accelerator)
        weight_decay = _fit_classifier(classifier, features, labels)
        mean, std = preprocessing.mean, preprocessing.std
        batches = accelerator.prepare(eval_loader(data, preprocessing.applied_to(config), mean=mean, std=std))
        metrics = evaluate(model, batches, accelerator, config.channels_last, autocast=False)
        folder.begin(accelerator, 0)  # not earlier: a probe that was stopped leaves an empty folder
        values = {"epoch": 0, **metrics, "regularization": weight_decay, **folder.image_counts()}
        accelerator.log({f"eval/{name}": value for name, value in values.items()}, step=0)
        folder.save_model(model, metrics)
        folder.finish()
        accelerator.end_training()
    finally:
        folder.release()
    _log.info(
        "done in %.0f s: top-1 %.2f %% (top-5 %.2f %%, loss %.4f) on %s, %d images",
        *(time.monotonic() - start, metrics["top1"], metrics["top5"], metrics["loss"]),
        *(data.eval_name, len(data.eval)),
    )
    log_commands(config, folder.path)
    return metrics


def _classifier(model: TimmModel, name: str) -> nn.Linear:
    """Return the linear layer that is the model's classifier.

    Raises:
        ConfigError: If the classifier is anything else.
    """
    classifier = model.get_classifier()
    if not isinstance(classifier, nn.Linear) or classifier.bias is None:
        raise ConfigError(f"`probe`: the classifier of {name} is not one linear layer with a bias; use `freeze` head")
    return classifier


@torch.inference_mode()
def _train_features(
    config: TrainConfig,
    data: ImageData,
    model: TimmModel,
    classifier: nn.Linear,
    preprocessing: Preprocessing,
    accelerator: Accelerator,
) -> tuple[Tensor, Tensor]:
    """Return the input of the classifier for each training image [V, N, D] and the labels [N].

    The images are prepared as for evaluation. V is 2 if they are flipped too, else 1.
    """
    images_of_train = replace(data, eval=data.train, unreadable_eval=data.unreadable_train)
    loader = eval_loader(
        images_of_train, preprocessing.applied_to(config), mean=preprocessing.mean, std=preprocessing.std
    )
    start = time.monotonic()
    inputs: list[Tensor] = []
    hook = classifier.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    features, kept = [], []
    for images, labels in tqdm(accelerator.prepare(loader), "features", leave=False, disable=None):
        if config.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        for view in (images, images.flip(-1)) if config.probe_flip else (images,):
            model(view)
        counted = labels != NOT_COUNTED
        features.append(torch.stack(inputs)[:, counted])
        kept.append(labels[counted])
        inputs.clear()
    hook.remove()
    data.unreadable_train.collect()
    if features[0].ndim != 3:
        raise ConfigError(
            f"`probe`: the classifier of {config.model} does not take one vector per image; use `freeze` head"
        )
    _log.info("features of %d training images in %.0f s", sum(map(len, kept)), time.monotonic() - start)
    return torch.cat(features, dim=1), torch.cat(kept)


def _fit_classifier(classifier: nn.Linear, features: Tensor, labels: Tensor) -> float:
    """Fit the classifier in place, and return the regularization."""
    features, labels = features.clone(), labels.clone()  # of inference mode, which allows no gradients
    mean = features.mean(dim=(0, 1))
    std = features.std(dim=(0, 1), correction=0).clamp_min(1e-6)
    features = (features - mean) / std
    chosen = stratified(labels.tolist(), max(len(labels) // _HELD_OUT, 1))
    held_out = torch.from_numpy(chosen).to(labels.device)
    weight_decay, layer = _choose(features, labels, held_out, classifier.out_features)
    _fit(layer, features, labels, weight_decay)
    with torch.no_grad():
        classifier.weight.copy_(layer.weight / std)
        classifier.bias.copy_(layer.bias - (layer.weight / std) @ mean)
    return weight_decay


def _choose(features: Tensor, labels: Tensor, held_out: Tensor, classes: int) -> tuple[float, nn.Linear]:
    """Return the regularization with the lowest loss on the images held out, and the classifier fitted with it.

    Regularization is weakened, starting from the solution before, until the loss rises.
    """
    layer = nn.Linear(features.shape[-1], classes, device=features.device)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    best: tuple[float, float, float, dict[str, Tensor]] | None = None
    for weight_decay in _WEIGHT_DECAYS:
        _fit(layer, features[:, ~held_out], labels[~held_out], weight_decay)
        with torch.no_grad():
            logits = layer(features[0, held_out])
            loss = float(F.cross_entropy(logits, labels[held_out]))
            top1 = 100 * float((logits.argmax(-1) == labels[held_out]).float().mean())
        if best is not None and not loss < best[0]:
            break
        best = (loss, top1, weight_decay, {name: value.clone() for name, value in layer.state_dict().items()})
    assert best is not None
    loss, top1, weight_decay, weights = best
    layer.load_state_dict(weights)
    _log.info(
        "regularization %g, chosen on %d of the %d training images: top-1 %.2f %%, loss %.4f there",
        *(weight_decay, int(held_out.sum()), len(labels), top1, loss),
    )
    return weight_decay, layer


def _fit(layer: nn.Linear, features: Tensor, labels: Tensor, weight_decay: float) -> None:
    """Minimize cross-entropy + weight_decay / 2 * |weight|^2 by L-BFGS, starting from the layer's weights."""
    features, labels = features.flatten(0, 1), labels.repeat(len(features))
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=_STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(layer(features), labels) + weight_decay / 2 * layer.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
