"""Find the columns of images and labels, also image columns that are not marked as such."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Literal

import datasets

from ssia_zoo.data.image_types import image_suffixes, is_image, suffix_of
from ssia_zoo.errors import DataError

Rows = Any
"""A datasets.Dataset; an IterableDataset where the split is streamed."""
Part = tuple[str, Rows]
"""Name and rows of a split."""

_INSPECTED = 100  # rows
_FIELDS = {"bytes", "path"}


def column_types(rows: Rows) -> dict[str, Any]:
    """Return the type of each column, and of their fields by dotted names.

    Raises:
        DataError: A stream's columns are unknown before it is read.
    """
    if rows.features is None:
        raise DataError("the columns of this stream are unknown before it is read; leave out `streaming`")
    return dict(rows.features.flatten())


def find_image_column(parts: Sequence[Part], given: str | None) -> str:
    """Return the given column, or else the only one that holds images.

    Raises:
        DataError: There is none, or there are several.
    """
    images = [name for name, feature in column_types(parts[0][1]).items() if isinstance(feature, datasets.Image)]
    return _choose(parts, given, images, "image")


def find_label_column(parts: Sequence[Part], given: str | None) -> str:
    """Return the given column, or else the only one of class labels or with a usual name of labels.

    A dotted name is that of a field of a column, such as "json.label" in webdataset shards.

    Raises:
        DataError: There is none, or there are several.
    """
    types = column_types(parts[0][1])
    labels = [name for name, feature in types.items() if _holds_classes(feature)]
    labels = labels or [name for name in ("label", "labels", "cls") if name in types]
    labels = labels or [name for name in types if name.endswith(".label")]
    if given is not None:
        labels = [name for name, feature in types.items() if not isinstance(feature, datasets.Image)]
    elif all(isinstance(feature, datasets.Image) for feature in types.values()):
        raise DataError("there are images but no classes; expected at least two, such as one subfolder per class")
    return _choose(parts, given, labels, "label")


def _holds_classes(feature: Any) -> bool:
    item = feature.feature if isinstance(feature, (datasets.List, datasets.LargeList)) else feature
    return isinstance(item, datasets.ClassLabel)


def select_columns(rows: Rows, image: str, label: str) -> Rows:
    """Keep two columns; of a stream, the full column if the label is a field of it."""
    if isinstance(rows, datasets.IterableDataset):
        return rows.select_columns([image, label if label in rows.features else label.split(".")[0]])
    return (rows if label in rows.features else rows.flatten()).select_columns([image, label])


def _choose(parts: Sequence[Part], given: str | None, candidates: list[str], kind: Literal["image", "label"]) -> str:
    setting = f"`{kind}_column`"
    if given is None and len(candidates) > 1:
        raise DataError(f"there are several {kind} columns; set {setting} to one of: {', '.join(candidates)}")
    if given is None and not candidates:
        raise DataError(f"there is no {kind} column among {', '.join(column_types(parts[0][1]))}; name it by {setting}")
    name = candidates[0] if given is None else given
    if name not in candidates:
        raise DataError(
            f"{setting} is {name!r}; expected a column of {kind}s, one of: {', '.join(candidates) or 'none'}"
        )
    for split, rows in parts:
        if name not in column_types(rows):
            raise DataError(f"the split {split!r} has no column {name!r}; set {setting} to a column of both splits")
    return name


# -- image columns that are not marked


def mark_image_columns(rows: Rows, given: str | None, folders: Sequence[str]) -> Rows:
    """Cast columns that hold images to the type Image, as in files written by pandas or polars.

    Nothing changes where a column has this type already, unless another one is given. Columns of structs of bytes and
    path come first; only without any, columns of bytes, then of paths.

    Args:
        rows: A split.
        given: The value of `image_column`.
        folders: Folders to which relative paths may refer.

    Raises:
        DataError: None of the files that a column names exists.
    """
    features = rows.features
    if features is None or (
        given is None and any(isinstance(feature, datasets.Image) for feature in features.values())
    ):
        return rows
    names = [name for name in features if given in (None, name) and not isinstance(features[name], datasets.Image)]
    kinds: tuple[Callable[[Any, list[Any]], bool], ...] = (_is_struct, _is_bytes, _is_path)
    first = list(islice(_undecoded(rows), _INSPECTED)) if any(_may_be_images(features[name]) for name in names) else []
    values = {name: [row[name] for row in first if row[name] is not None] for name in names}
    for kind in kinds:
        found = [name for name in names if kind(features[name], values[name])]
        if found:
            for name in found:
                rows = _cast(rows, name, values[name], folders)
            break
    return rows


def _undecoded(rows: Rows) -> Iterator[dict[str, Any]]:
    for name, feature in rows.features.items():
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(name, datasets.Image(decode=False))
    return iter(rows)


def _may_be_images(feature: Any) -> bool:
    return _is_struct(feature, []) or _type_name(feature) in ("binary", "string")


def _type_name(feature: Any) -> str:
    return str(getattr(feature, "dtype", "")).removeprefix("large_").removesuffix("_view")


def _is_struct(feature: Any, values: list[Any]) -> bool:
    if not isinstance(feature, dict) or not feature or set(feature) - _FIELDS:
        return False
    return all(_type_name(feature[field]) in ("binary", "string", "null") for field in feature)


def _is_bytes(feature: Any, values: list[Any]) -> bool:
    return _type_name(feature) == "binary" and any(is_image(io.BytesIO(value)) for value in values)


def _is_path(feature: Any, values: list[Any]) -> bool:
    suffixes = image_suffixes()
    return _type_name(feature) == "string" and bool(values) and all(suffix_of(value) in suffixes for value in values)


def _cast(rows: Rows, name: str, values: list[Any], folders: Sequence[str]) -> Rows:
    if any(isinstance(value, bytes) or (isinstance(value, dict) and value.get("bytes")) for value in values):
        return rows.cast_column(name, datasets.Image())
    folder = _base_folder(name, [path for path in map(_path, values) if path], folders)

    def absolute(value: Any) -> str | None:
        path = _path(value)
        return path and (path if "://" in path else os.path.join(folder, path))

    if isinstance(rows, datasets.IterableDataset):
        features = datasets.Features({**rows.features, name: datasets.Image()})
        return rows.map(lambda row: {name: {"bytes": None, "path": absolute(row[name])}}, features=features)
    paths = rows.select_columns([name]).with_format("arrow")[:][name].to_pylist()
    rows = rows.remove_columns(name).add_column(name, [absolute(value) for value in paths])
    return rows.cast_column(name, datasets.Image())


def _path(value: Any) -> str | None:
    return value if isinstance(value, str) or value is None else value.get("path")


def _base_folder(name: str, paths: list[str], folders: Sequence[str]) -> str:
    """Return the first folder that has one of the relative paths; the working directory is tried last."""
    relative = [path for path in paths if not os.path.isabs(path) and "://" not in path]
    for folder in (*folders, ""):
        if not relative or any(os.path.exists(os.path.join(folder, path)) for path in relative):
            return folder
    raise DataError(
        f"the column {name!r} names images that do not exist, such as {relative[0]}; put them into the data set's "
        "folder, or store absolute paths"
    )
