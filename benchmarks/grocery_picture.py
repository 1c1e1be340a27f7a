"""Draw the README's picture: photos of Grocery Store's test split, and where a weight and its control look for a class.

    python benchmarks/grocery_picture.py tf_efficientnet_lite0_ssia.grocery_r224 runs/weights/NAME/vanilla_seed0 DATA

DATA is a folder of the data set's parquet files. The photos are drawn at random, by seed 0, not more than one of a
class. The maps are Grad-CAM of the predicted class, red where the class is wrong.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import tyro
from recording import DOCS

from ssia_zoo.figures import new_figure
from ssia_zoo.inference.classifier import Classifier
from ssia_zoo.inference.explain import Explanation, explain
from ssia_zoo.models.loading import load_model

PHOTOS = 7


def main(
    weight: tyro.conf.Positional[str],
    control: tyro.conf.Positional[Path],
    data: tyro.conf.Positional[Path],
    out: Path = DOCS / "images" / "grocery.jpg",
) -> None:
    """Draw the picture.

    Args:
        weight: name of a published weight
        control: folder of a run
        data: folder of parquet files
        out: picture to write
    """
    photos, labels = draw_photos(data)
    models = {"vanilla": load_model(f"local-dir:{control}"), "SSIA": load_model(weight)}
    figure = new_figure(1.55 * PHOTOS + 0.3, 1.85 * 3)
    axes = figure.subplots(3, PHOTOS)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    for row, (name, model) in enumerate(models.items(), start=1):
        classifier = Classifier(model)
        axes[row, 0].set_ylabel(name, fontsize=12)
        for column, (photo, label) in enumerate(zip(photos, labels, strict=True)):
            found = explain(name, classifier, photo)
            if row == 1:
                axes[0, column].imshow(found.pixels)
                axes[0, column].set_title(spaced(label), fontsize=8)
            draw_map(axes[row, column], found, right=found.guess.label == label)
    axes[0, 0].set_ylabel("photo", fontsize=12)
    figure.savefig(out, dpi=110)


def draw_photos(data: Path) -> tuple[list[PIL.Image.Image], list[str]]:
    """Return photos of different classes, drawn at random, and their classes."""
    test = datasets.load_dataset(str(data), split="test")
    names = test.features["label"].names
    chosen: dict[str, int] = {}
    for index in np.random.default_rng(0).permutation(len(test)).tolist():
        chosen.setdefault(names[test[index]["label"]], index)
        if len(chosen) == PHOTOS:
            break
    return [test[index]["image"] for index in chosen.values()], list(chosen)


def spaced(label: str) -> str:
    """Return a class name in words, shortened to fit above a photo."""
    return textwrap.shorten(label.replace("-", " "), 24, placeholder=" …")


def draw_map(axis: object, found: Explanation, right: bool) -> None:
    """Draw a photo in grey with the class map over it, and the answer above it."""
    grey = found.pixels.mean(axis=2)
    height, width = grey.shape
    axis.imshow(0.2 + 0.6 * grey, cmap="gray", vmin=0, vmax=1)  # type: ignore[attr-defined]
    if found.class_map is not None:
        values = found.class_map.values
        share = values / (float(values.max()) or 1.0)
        axis.imshow(  # type: ignore[attr-defined]
            share, cmap="inferno", alpha=0.25 + 0.45 * share, extent=(0, width, height, 0), interpolation="bilinear"
        )
    answer = f"{spaced(found.guess.label)} {found.guess.probability:.0%}"
    axis.set_title(answer, fontsize=7, color="black" if right else "crimson")  # type: ignore[attr-defined]


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
