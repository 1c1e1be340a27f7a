"""Write folders of photos with a file of labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssia_zoo.data import DataConfig
from tests.helpers.data_folders import pictures

NAMES = [f"{number:02d}.png" for number in range(12)]
LABELS = ["cat", "dog", "cow"] * 4


def photos(folder: Path, names: list[str] | None = None) -> Path:
    """Write a folder of photos, in subfolders if their names say so."""
    names = NAMES if names is None else names
    for name, picture in zip(names, pictures(len(names)), strict=True):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    return folder


def table(columns: dict[str, list[str]], delimiter: str = ",") -> str:
    """Return the text of a file of columns, without quotes."""
    lines = [list(columns), *map(list, zip(*columns.values(), strict=True))]
    return "".join(delimiter.join(line) + "\n" for line in lines)


def labelled_photos(tmp_path: Path, content: str | bytes, name: str = "labels.csv", **settings: Any) -> DataConfig:
    """Write a file of labels beside a folder of twelve photos; a quarter is held out unless the settings differ."""
    if not (tmp_path / "photos").exists():
        photos(tmp_path / "photos")
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    settings = {"holdout": 0.25, "image_size": 8, "batch_size": 2, "workers": 0, **settings}
    return DataConfig(str(tmp_path / "photos"), labels=str(tmp_path / name), **settings)
