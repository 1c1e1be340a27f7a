"""Pictures of where a network's stages look."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch

from ssia_zoo.figures import new_figure
from ssia_zoo.loss.ssia import spatial_attention
from ssia_zoo.models.features import TimmModel, evaluating, forward_stages, stage_indices

AttentionMap = npt.NDArray[np.float32]


@torch.inference_mode()
def stage_attention(model: TimmModel, images: torch.Tensor) -> list[AttentionMap]:
    """Where each stage of a model is active.

    Args:
        model: A timm classifier.
        images: Normalised images [B, 3, H, W].

    Returns:
        One array [B, h, w] a stage, lowest first; each image's map sums to 1 (see `ssia.spatial_attention`).
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
    """Draw stage attention maps of several models side by side, an image a row.

    Args:
        images: The images, in the order of the maps.
        models: Maps of each model, as given by `stage_attention`, by the name that the picture shows.
        titles: What to write beside each image.
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
    figure.suptitle("stage attention: where the energy of each stage's map lies (bright = high)", fontsize=9)
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, format="png", dpi=120)
    os.replace(temporary, path)
