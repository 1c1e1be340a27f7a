"""Compute and draw the spatial attention of a model's stages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch

from ssia_zoo.figures import new_figure
from ssia_zoo.files import atomic_write
from ssia_zoo.loss.ssia import spatial_attention
from ssia_zoo.models.features import TimmModel, evaluating, forward_stages, stage_indices

AttentionMap = npt.NDArray[np.float32]


@torch.inference_mode()
def stage_attention(model: TimmModel, images: torch.Tensor) -> list[AttentionMap]:
    """Compute where each stage of a model is active.

    Args:
        model: A timm classifier.
        images: Normalized images [B, 3, H, W].

    Returns:
        One array [B, h, w] per stage, lowest first; each image's map sums to 1 (see `ssia.spatial_attention`).
    """
    with evaluating(model):
        _, features = forward_stages(model, images, stage_indices(model))
    return [
        spatial_attention(f).reshape(f.shape[0], f.shape[2], f.shape[3]).cpu().numpy().astype(np.float32)
        for f in features
    ]


def draw_attention(
    images: Sequence[PIL.Image.Image], models: dict[str, list[AttentionMap]], titles: Sequence[str], path: Path
) -> None:
    """Draw the stage attention maps of several models side by side, one row per image.

    Args:
        images: The images, in the order of the maps.
        models: Maps from `stage_attention`, by the model's name in the figure.
        titles: One title per image.
        path: PNG to write.
    """
    stages = [(name, i, maps) for name, per_stage in models.items() for i, maps in enumerate(per_stage)]
    figure = new_figure(1.3 * (len(stages) + 1), 1.45 * len(images) + 0.6)
    axes = figure.subplots(len(images), len(stages) + 1, squeeze=False)
    for row, (image, title) in enumerate(zip(images, titles, strict=True)):
        axes[row][0].imshow(image, cmap="gray" if image.mode == "L" else None)
        axes[row][0].set_ylabel(title, fontsize=8)
        for column, (name, stage, maps) in enumerate(stages, start=1):
            axes[row][column].imshow(maps[row], cmap="viridis", vmin=0)
            if row == 0:
                axes[row][column].set_title(f"{name}\nstage {stage + 1}, {maps.shape[1]}×{maps.shape[2]}", fontsize=8)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    axes[0][0].set_title("input", fontsize=8)
    figure.suptitle("stage attention: share of the activation energy at each position (bright = high)", fontsize=9)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
