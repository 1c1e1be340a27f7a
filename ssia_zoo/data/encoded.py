"""What is known of stored images without decoding them: their names and their sizes in bytes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class StoredImages:
    """The images of a split, in its order."""

    paths: list[str | None]
    """What the data set calls an image; the path of its file where the data set does not hold its bytes."""
    lengths: Integers
    """Bytes that the data set itself holds; -1 where it names a file, or has no image."""

    def sizes(self) -> Integers:
        """Bytes of each image; -1 if there is none, or its file cannot be found."""
        files = [self.paths[row] if length < 0 else None for row, length in enumerate(self.lengths.tolist())]
        return np.array(
            [length if file is None else _file_size(file) for file, length in zip(files, self.lengths, strict=True)],
            dtype=np.int64,
        )

    def files(self) -> list[str]:
        """Paths of the images that are files of their own."""
        return [
            path
            for path, length in zip(self.paths, self.lengths.tolist(), strict=True)
            if length < 0 and path is not None
        ]


def stored_images(rows: datasets.Dataset, column: str) -> StoredImages:
    """List the images of a column, without reading their bytes."""
    whole = rows.data.column(column)
    lengths = np.concatenate([_lengths(chunk.field("bytes")) for chunk in whole.chunks] or [np.empty(0, np.int64)])
    paths = [path for chunk in whole.chunks for path in chunk.field("path").to_pylist()]
    chosen = selected_rows(rows)
    return StoredImages([paths[row] for row in chosen], lengths[chosen])


def stored_labels(rows: datasets.Dataset, column: str) -> Integers:
    """Class numbers of a column."""
    labels: Integers = rows.data.column(column).to_numpy()
    return labels[selected_rows(rows)]


def selected_rows(rows: datasets.Dataset) -> Sequence[int] | Integers:
    """Rows of the table that belong to a selection of it, in order."""
    if rows._indices is None:
        return np.arange(rows.data.num_rows)
    chosen: Integers = rows._indices.column(0).to_numpy().astype(np.int64)
    return chosen


def _lengths(values: pa.Array) -> Integers:
    lengths: Integers = pc.fill_null(pc.binary_length(values).cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    return lengths


def _file_size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return -1
