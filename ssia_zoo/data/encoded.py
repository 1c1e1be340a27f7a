"""Names and byte sizes of stored images, without decoding them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ssia_zoo.data.labels import read_labels

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EncodedImages:
    """The images of a split, in its order."""

    paths: list[str | None]
    """Name of each image in the data set; the path of its file where the data set does not hold its bytes."""
    lengths: Integers
    """Bytes of each image in the data set; -1 for a file, or no image."""

    def sizes(self) -> Integers:
        """Return the bytes of each image; -1 if there is none, or its file is missing."""
        return np.array(
            [
                _file_size(path) if length < 0 and path is not None else length
                for path, length in zip(self.paths, self.lengths.tolist(), strict=True)
            ],
            dtype=np.int64,
        )

    def files(self) -> list[str]:
        """Return the paths of the images that are files."""
        return [
            path
            for path, length in zip(self.paths, self.lengths.tolist(), strict=True)
            if length < 0 and path is not None
        ]

    def portable_names(self) -> list[str]:
        """Return names that do not depend on where the data set is: for files, paths below their common folder."""
        files = [path for path in self.files() if "://" not in path]
        root = os.path.commonpath([os.path.dirname(file) for file in files]) if files else ""
        return [
            "" if path is None else path if "://" in path else _portable(path, root if length < 0 else None)
            for path, length in zip(self.paths, self.lengths.tolist(), strict=True)
        ]


def _portable(path: str, root: str | None) -> str:
    return (os.path.basename(path) if root is None else os.path.relpath(path, root)).replace(os.sep, "/")


def encoded_images(rows: datasets.Dataset, column: str) -> EncodedImages:
    """List the images of a column without reading their bytes."""
    table = rows.data.column(column)
    lengths = np.concatenate([_lengths(chunk.field("bytes")) for chunk in table.chunks] or [np.empty(0, np.int64)])
    paths = [path for chunk in table.chunks for path in chunk.field("path").to_pylist()]
    selected = selected_rows(rows)
    return EncodedImages([paths[row] for row in selected], lengths[selected])


def selected_rows(rows: datasets.Dataset) -> Sequence[int] | Integers:
    """Return the rows of the underlying table that are selected, in order."""
    if rows._indices is None:
        return np.arange(rows.data.num_rows)
    selected: Integers = rows._indices.column(0).to_numpy().astype(np.int64)
    return selected


def split_digest(rows: datasets.Dataset, image_column: str, label_column: str) -> str:
    """Return a sha256 of the names, byte sizes and labels of a split's images, as hexadecimal digits."""
    images = encoded_images(rows, image_column)
    labels = read_labels(rows, label_column)
    digest = sha256()
    for name, size, label in zip(images.portable_names(), images.sizes().tolist(), labels, strict=True):
        digest.update(f"{name}\0{size}\0{label}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _lengths(values: pa.Array) -> Integers:
    lengths: Integers = pc.fill_null(pc.binary_length(values).cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    return lengths


def _file_size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return -1
