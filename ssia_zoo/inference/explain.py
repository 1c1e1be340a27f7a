"""Draw the spatial attention of a model's stages and the Grad-CAM map of the predicted class."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch
from torch import Tensor, nn

from ssia_zoo.errors import ConfigError
from ssia_zoo.figures import class_label, new_figure
from ssia_zoo.files import atomic_write
from ssia_zoo.inference.attention import AttentionMap, stage_attention
from ssia_zoo.inference.classifier import Classifier, Guess
from ssia_zoo.models.features import TimmModel, evaluating, forward_stages, stage_indices

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Pixels = npt.NDArray[np.float32]

_LEGEND = (
    "Stages: spatial attention (softmax over positions of the standardized activation energy). Peak: the largest share "
    "of one position; uniform: the share if all were equal.\nClass map: Grad-CAM of the predicted class. "
    "In each panel dark is 0 and bright yellow is the panel's largest value."
)
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


@dataclass(frozen=True)
class ClassMap:
    """Grad-CAM map of a class at one stage."""

    stage: int
    """index among the stages of `stage_attention`"""
    values: AttentionMap
    """[h, w], not negative"""


@dataclass(frozen=True)
class Explanation:
    """Stage attention and class map of one model for one image."""

    name: str
    pixels: Pixels
    """the model's input, [H, W, 3] in 0…1"""
    guess: Guess
    stages: tuple[AttentionMap, ...]
    """[h, w] each, lowest stage first; each sums to 1"""
    class_map: ClassMap | None
    """None if no stage has both more than one position and a gradient"""


def explain(name: str, classifier: Classifier, image: PIL.Image.Image) -> Explanation:
    """Compute the stage attention and the class map of the predicted class.

    Args:
        name: The model's name in the figure.
        classifier: The model.
        image: An image of any 8-bit mode.

    Raises:
        ConfigError: If the model's stages are not available (see `features.stage_indices`).
        DataError: If the image is too narrow (see `ImageReader.prepare`).
    """
    prepared = classifier.prepare(image)
    batch = prepared[None].to(classifier.device)
    guess = classifier.guesses(classifier.probabilities(batch)[0], top=1)[0]
    stages = tuple(maps[0] for maps in stage_attention(classifier.model, batch))
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (classifier.mean, classifier.std))
    pixels = (prepared * std + mean).clamp(0, 1)[:3].expand(3, -1, -1).permute(1, 2, 0).numpy()  # as RGB
    return Explanation(name, pixels, guess, stages, class_map(classifier.model, batch, guess.index))


def class_map(model: TimmModel, image: Tensor, index: int) -> ClassMap | None:
    """Compute Grad-CAM of one class at the deepest stage that has more than one position and a gradient.

    Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization",
    arXiv 1610.02391, equations 1 and 2: with the class's logit y and the map's channels A_k of Z positions,
    α_k = 1/Z Σ_ij ∂y/∂A_k,ij and L = ReLU(Σ_k α_k A_k). In a transformer that classifies by its class token the last
    stage's positions have no gradient, so the stage below is used.

    Args:
        model: A timm classifier.
        image: Normalized image [1, C, H, W].
        index: Index of the class.

    Returns:
        The map, or None if no stage has one.
    """
    indices = stage_indices(model)
    modules = dict(model.named_modules())
    info = list(model.feature_info)
    outputs: dict[int, Tensor] = {}
    hooks = []
    for i in indices:
        module = modules.get(info[i]["module"])
        if module is not None:
            hooks.append(module.register_forward_hook(_keeper(outputs, i)))
    try:
        with evaluating(model), torch.enable_grad():
            logits, maps = forward_stages(model, image.detach().requires_grad_(), indices)
            for stage in reversed(range(len(maps))):
                shape = maps[stage].shape[2:]
                if shape.numel() == 1:
                    continue
                gradient = _gradient(logits[0, index], maps[stage], outputs.get(indices[stage]))
                if gradient is not None and bool(gradient.any()):
                    weight = gradient.float().mean(dim=(2, 3), keepdim=True)
                    values = (weight * maps[stage].float()).sum(dim=1)[0].relu()
                    return ClassMap(stage, values.detach().cpu().numpy().astype(np.float32))
    finally:
        for hook in hooks:
            hook.remove()
    return None


def _keeper(outputs: dict[int, Tensor], index: int) -> Callable[[nn.Module, object, object], None]:
    def keep(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            outputs[index] = output

    return keep


def _gradient(logit: Tensor, feature: Tensor, output: Tensor | None) -> Tensor | None:
    """Return the gradient of a logit with respect to a stage's map [1, C, h, w], or None if there is none.

    In most models the map is part of the graph. In models of tokens or NHWC it is a rearranged copy; the gradient is
    then taken with respect to the stage's `output` and rearranged in the same way.
    """
    gradient = _grad(logit, feature)
    if gradient is not None or output is None or not output.requires_grad:
        return gradient
    gradient = _grad(logit, output)
    arranged = _like_map(output, feature.shape)
    if gradient is None or arranged is None or not torch.allclose(arranged, feature, rtol=1e-3, atol=1e-5):
        return None
    return _like_map(gradient, feature.shape)


def _grad(logit: Tensor, by: Tensor) -> Tensor | None:
    return torch.autograd.grad(logit, by, retain_graph=True, allow_unused=True)[0]


def _like_map(tensor: Tensor, shape: Sequence[int]) -> Tensor | None:
    """Rearrange NHWC or patch tokens (after prefix tokens) to NCHW of this shape; None if they do not fit."""
    batch, channels, height, width = shape
    if tuple(tensor.shape) == (batch, height, width, channels):
        return tensor.permute(0, 3, 1, 2)
    if tensor.ndim == 3 and tensor.shape[2] == channels and tensor.shape[1] >= height * width:
        patches = tensor[:, tensor.shape[1] - height * width :]  # class and register tokens come first
        return patches.transpose(1, 2).reshape(batch, channels, height, width)
    return None


def check_writable(path: Path, image: Path) -> None:
    """Check, before any work, that a PNG can be written or replaced; create its folder.

    Args:
        path: The PNG.
        image: The image to explain, which must not be replaced.

    Raises:
        ConfigError: If it cannot be written, is the image itself, or the name does not end in .png.
    """
    if path.suffix.lower() != ".png":
        raise ConfigError(f"`out` is {path}; expected a name ending in .png")
    if path.is_dir():
        raise ConfigError(f"`out` is {path}, which is a folder; expected a file name")
    if path.exists() and image.exists() and path.samefile(image):
        raise ConfigError(f"`out` is {path}, which is the image itself; choose another name")
    with _report_unwritable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()


def draw(explanations: Sequence[Explanation], title: str, path: Path) -> None:
    """Draw explanations, one row per model.

    Args:
        explanations: At least one.
        title: Title of the figure, such as the image's name.
        path: PNG to write.

    Raises:
        ConfigError: If it cannot be written.
    """
    columns = max(len(e.stages) for e in explanations) + 2
    figure = new_figure(2.1 * columns, 2.6 * len(explanations) + 0.9)
    parts = figure.subfigures(len(explanations), 1, squeeze=False)[:, 0]
    for part, explanation in zip(parts, explanations, strict=True):
        part.suptitle(explanation.name, fontsize=11, fontweight="bold", x=0.01, ha="left")
        _draw_row(part.subplots(1, columns, squeeze=False)[0], explanation)
    figure.suptitle(title, fontsize=10)
    figure.supxlabel(_LEGEND, fontsize=8.5)
    with _report_unwritable(path), atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


@contextmanager
def _report_unwritable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"`out` is {path}: cannot be written ({error.strerror or error}); choose another") from error


def _draw_row(axes: Sequence[Axes], explanation: Explanation) -> None:
    for axis in axes:
        axis.set_axis_off()
    height, width = explanation.pixels.shape[:2]
    axes[0].imshow(explanation.pixels)
    axes[0].set_title(f"input, {height}×{width}\n{_describe(explanation.guess)}", fontsize=9)
    for stage, (axis, values) in enumerate(zip(axes[1:], explanation.stages, strict=False), start=1):
        single = values.size == 1
        note = "one position: no map" if single else f"peak {values.max():.2%}, uniform {1 / values.size:.2%}"
        _overlay(axis, explanation.pixels, values, f"stage {stage}, {_size(values)}\n{note}")
    found = explanation.class_map
    if found is None:
        axes[-1].set_title("class map\nnone for this model", fontsize=9)
    else:
        name = class_label(explanation.guess.label, explanation.guess.index)
        label = f"class map of {name[:14]!r}\nat stage {found.stage + 1}, {_size(found.values)}"
        _overlay(axes[-1], explanation.pixels, found.values, label)


def _overlay(axis: Axes, pixels: Pixels, values: AttentionMap, title: str) -> None:
    """Draw a map over the image in grey, more opaque where its values are high."""
    height, width = pixels.shape[:2]
    axis.set_title(title, fontsize=9)
    axis.imshow(0.2 + 0.6 * (pixels @ _LUMA), cmap="gray", vmin=0, vmax=1)
    if values.size > 1:
        share = values / (float(values.max()) or 1.0)
        extent = (-0.5, width - 0.5, height - 0.5, -0.5)
        opacity = 0.3 + 0.5 * share
        axis.imshow(share, cmap="inferno", vmin=0, vmax=1, alpha=opacity, extent=extent, interpolation="nearest")


def _size(values: AttentionMap) -> str:
    return f"{values.shape[0]}×{values.shape[1]}"


def _describe(guess: Guess) -> str:
    name = class_label(guess.label, guess.index)
    label = name if len(name) <= 22 else f"{name[:21]}…"
    return f"“{label}” {guess.probability:.1%}"
