"""Columns of images that are not marked as such: structs of bytes and path, bytes alone, or paths."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import datasets
import PIL.Image

from ssia_zoo.data.image_types import image_suffixes, suffix_of
from ssia_zoo.errors import DataError

_LOOKED_AT = 100  # rows
_PARTS = {"bytes", "path"}


def mark_image_columns(rows: Any, asked: str | None, folders: Sequence[str]) -> Any:
    """Give the type Image to columns that hold images without saying so, as files written by pandas or polars do.

    Nothing changes where a column is of this type already, unless another one is asked for. Of bytes, of paths and of
    structs of both, the kind that comes first decides: structs, bytes, paths.

    Args:
        rows: A split at hand, or a stream.
        asked: The column that the user named.
        folders: Where files may be that are named by relative paths.

    Raises:
        DataError: None of the files that a column names is there.
    """
    features = rows.features
    if features is None or (
        asked is None and any(isinstance(feature, datasets.Image) for feature in features.values())
    ):
        return rows
    names = [name for name in features if asked in (None, name) and not isinstance(features[name], datasets.Image)]
    kinds: tuple[Callable[[Any, list[Any]], bool], ...] = (_is_struct, _is_bytes, _is_path)
    first = list(islice(_raw(rows), _LOOKED_AT)) if any(_may_be_images(features[name]) for name in names) else []
    for kind in kinds:
        found = [name for name in names if kind(features[name], [row[name] for row in first if row[name] is not None])]
        if found:
            for name in found:
                rows = _marked(rows, name, [row[name] for row in first if row[name] is not None], folders)
            break
    return rows


def _raw(rows: Any) -> Iterator[dict[str, Any]]:
    for name, feature in rows.features.items():
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(name, datasets.Image(decode=False))
    return iter(rows)


def _may_be_images(feature: Any) -> bool:
    return _is_struct(feature, []) or _type(feature) in ("binary", "string")


def _type(feature: Any) -> str:
    return str(getattr(feature, "dtype", "")).removeprefix("large_").removesuffix("_view")


def _is_struct(feature: Any, values: list[Any]) -> bool:
    if not isinstance(feature, dict) or not feature or set(feature) - _PARTS:
        return False
    return all(_type(feature[part]) in ("binary", "string", "null") for part in feature)


def _is_bytes(feature: Any, values: list[Any]) -> bool:
    return _type(feature) == "binary" and any(_opens(value) for value in values)


def _is_path(feature: Any, values: list[Any]) -> bool:
    return _type(feature) == "string" and bool(values) and all(suffix_of(value) in image_suffixes() for value in values)


def _opens(value: bytes) -> bool:
    try:
        with PIL.Image.open(io.BytesIO(value)):
            return True
    except Exception:  # decoders raise whatever they like on what is no image
        return False


def _marked(rows: Any, name: str, values: list[Any], folders: Sequence[str]) -> Any:
    if any(isinstance(value, bytes) or (isinstance(value, dict) and value.get("bytes")) for value in values):
        return rows.cast_column(name, datasets.Image())
    folder = _folder_of(name, [path for path in map(_path, values) if path], folders)

    def stored(value: Any) -> str | None:
        path = _path(value)
        return path and (path if "://" in path else os.path.join(folder, path))

    if isinstance(rows, datasets.IterableDataset):
        features = datasets.Features({**rows.features, name: datasets.Image()})
        return rows.map(lambda row: {name: {"bytes": None, "path": stored(row[name])}}, features=features)
    paths = rows.select_columns([name]).with_format("arrow")[:][name].to_pylist()
    rows = rows.remove_columns(name).add_column(name, [stored(value) for value in paths])
    return rows.cast_column(name, datasets.Image())


def _path(value: Any) -> str | None:
    return value if isinstance(value, str) or value is None else value.get("path")


def _folder_of(name: str, paths: list[str], folders: Sequence[str]) -> str:
    """The folder that relative paths begin in; the working directory is the last that is tried."""
    relative = [path for path in paths if not os.path.isabs(path) and "://" not in path]
    for folder in (*folders, ""):
        if not relative or any(os.path.exists(os.path.join(folder, path)) for path in relative):
            return folder
    raise DataError(
        f"the column {name!r} names images that are not there, such as {relative[0]}; put them into the data set's "
        "folder, or store whole paths"
    )
