"""Choose and compute the stage maps of any timm classifier with timm's `forward_intermediates`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from ssia_zoo.errors import ConfigError, one_line

TimmModel = Any
"""A timm classifier, an `nn.Module`; timm has no type hints, and the methods used here are not those of `nn.Module`."""

_MAX_STAGES = 4


def stage_indices(model: TimmModel) -> list[int]:
    """Choose the intermediate maps that represent a model's stages, lowest first.

    For a hierarchical model these are the last maps of its stages (at most the last four), for a model whose maps all
    have one size, such as a plain ViT, four evenly spaced depths.

    Args:
        model: A timm classifier.

    Raises:
        ConfigError: If the model has no `forward_intermediates`, no classifier, or fewer than two maps.
    """
    name = type(model).__name__
    if not (hasattr(model, "forward_intermediates") and hasattr(model, "forward_head")):
        raise ConfigError(f"{name} has no forward_intermediates/forward_head; expected a timm>=1.0.31 classifier")
    if getattr(model, "num_classes", 0) < 1:
        raise ConfigError(f"{name} has no classifier (num_classes=0); create it with num_classes of at least 1")
    reductions = [info["reduction"] for info in _feature_info(model)]
    count = len(reductions)
    if count < 2:
        raise ConfigError(f"{name} has too few stages ({count}): SSIA needs at least 2; choose another model")
    if len(set(reductions)) == 1:
        stages = min(_MAX_STAGES, count)
        return [(i + 1) * count // stages - 1 for i in range(stages)]
    if count > 6:  # one entry per block: the last map of each resolution ends a stage
        ends = [list(run)[-1][0] for _, run in groupby(enumerate(reductions), key=lambda item: item[1])]
        return ends[-_MAX_STAGES:]
    return list(range(count))[-_MAX_STAGES:]


def _feature_info(model: TimmModel) -> Sequence[dict[str, int]]:
    info = model.feature_info
    entries: Sequence[dict[str, int]] = (
        info.info if hasattr(info, "info") else info
    )  # timm: a FeatureInfo, or a plain list of dicts
    return entries


def forward_stages(model: TimmModel, x: Tensor, indices: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    """Run a model once, and return its logits and the maps at `indices`.

    Args:
        model: A timm classifier.
        x: Images [B, C, H, W].
        indices: As returned by `stage_indices`.

    Returns:
        Logits [B, num_classes], bit-equal to `model(x)`, and one map [B, C, H, W] per index.
    """
    final, maps = model.forward_intermediates(x, indices=list(indices), output_fmt="NCHW")
    return model.forward_head(final), maps


def stage_shapes(
    model: TimmModel, indices: Sequence[int], input_size: tuple[int, int, int]
) -> list[tuple[int, int, int]]:
    """Return the stages' shapes, measured on one blank image; the model does not change.

    Args:
        model: A timm classifier.
        indices: As returned by `stage_indices`.
        input_size: Channels, height, width of the images.

    Returns:
        Channels, height, width of each stage's map.

    Raises:
        ConfigError: If the model cannot take images of this size.
    """
    _, maps = try_blank_image(model, input_size, lambda image: forward_stages(model, image, indices))
    return [(m.shape[1], m.shape[2], m.shape[3]) for m in maps]


def trained_stages(model: TimmModel, indices: Sequence[int], input_size: tuple[int, int, int]) -> list[int]:
    """Leave out the stages whose maps do not depend on a trained parameter, as all of them so far are frozen.

    Args:
        model: A timm classifier.
        indices: As returned by `stage_indices`.
        input_size: Channels, height, width of the images.

    Returns:
        The rest of `indices`.

    Raises:
        ConfigError: If the model cannot take images of this size.
    """
    if all(parameter.requires_grad for parameter in model.parameters()):
        return list(indices)

    @torch.enable_grad()
    def need_gradients(image: Tensor) -> list[bool]:
        return [feature.requires_grad for feature in forward_stages(model, image, indices)[1]]

    needed = try_blank_image(model, input_size, need_gradients)
    return [index for index, trained in zip(indices, needed, strict=True) if trained]


def try_blank_image(
    model: TimmModel,
    input_size: tuple[int, int, int],
    forward: Callable[[Tensor], Any] | None = None,
    *,
    name: str | None = None,
) -> Any:
    """Run a model on one blank image, in eval mode and without gradients, to see whether it takes this size.

    Args:
        model: A timm classifier.
        input_size: Channels, height, width.
        forward: What to run; `model` itself if None.
        name: What errors call the model; its class if None.

    Returns:
        What `forward` returns.

    Raises:
        ConfigError: If the model cannot take images of this size.
    """
    parameter = next(model.parameters())
    image = torch.zeros(1, *input_size, device=parameter.device, dtype=parameter.dtype)
    try:
        with evaluating(model), torch.no_grad():
            return (forward or model)(image)
    except Exception as error:  # models raise any kind; timm asserts image sizes
        size = "x".join(map(str, input_size))
        raise ConfigError(
            f"{name or type(model).__name__} cannot take images of size {size} ({one_line(error, 150)}); "
            "choose another image size"
        ) from error


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch a model to eval mode, and restore the mode of every submodule afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
