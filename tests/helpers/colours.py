"""A model that tells red, green and blue apart, and data of these colours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import torch
from PIL import Image

from ssia_zoo.data import DataConfig
from tests.helpers.data_folders import IMAGE, rows

NAMES = ["red", "green", "blue"]
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class Colour(torch.nn.Module):
    """Logits are the means of red, green and blue; `extra` classes are always more probable."""

    def __init__(self, label_names: Any, extra: int = 0) -> None:
        super().__init__()
        self.num_classes = 3 + extra
        self.scale = torch.nn.Parameter(torch.ones(()))
        cfg = {"input_size": (3, 8, 8), "mean": (0.0,) * 3, "std": (1.0,) * 3, "num_classes": 3 + extra}
        self.pretrained_cfg = {**cfg, "label_names": label_names}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        extra = torch.full((len(x), self.num_classes - 3), 9.0)
        return torch.cat([x.mean(dim=(2, 3)) * self.scale, extra], dim=1)


def stored(folder: Path, names: list[str], used: list[str], splits: tuple[str, ...] = ("train", "test")) -> DataConfig:
    """Write parquet files with the classes `names` and two images of each class in `used`."""
    folder.mkdir()
    colours = [name for name in used for _ in range(2)]
    columns = {
        "image": [Image.new("RGB", (8, 8), COLOURS[name]) for name in colours],
        "label": [names.index(name) for name in colours],
    }
    part = rows(columns, image=IMAGE, label=datasets.ClassLabel(names=names))
    for split in splits:
        part.to_parquet(folder / f"{split}.parquet")
    return DataConfig(str(folder), batch_size=4, workers=0)


def write_mixed_colours(folder: Path) -> Path:
    """Write 48 photos whose labels are the colours that they are mixed of; labels.csv is beside the folder returned."""
    photos = folder / "photos"
    photos.mkdir()
    lines = ["path,label"]
    for number in range(48):
        names = [name for place, name in enumerate(NAMES) if (number % 7 + 1) >> place & 1]
        mixed = tuple(200 * (name in names) + number % 5 for name in NAMES)
        Image.new("RGB", (16, 16), mixed).save(photos / f"{number}.png")
        lines.append(f"{number}.png,{';'.join(names)}")
    (folder / "labels.csv").write_text("\n".join(lines))
    return photos
