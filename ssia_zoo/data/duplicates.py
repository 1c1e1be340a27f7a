"""Find images that are in both the training and the evaluation split: the same files, or the same bytes."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from hashlib import sha256

import datasets

from ssia_zoo.data.encoded import encoded_images, selected_rows
from ssia_zoo.data.messages import printable
from ssia_zoo.errors import DataError

ALWAYS_COMPARED = 10_000  # images of both splits
File = tuple[str, str]
"""A path, and the same path with links resolved."""
_ENDS = 4096  # first and last bytes, which differ between most images


def refuse_shared_files(train: Sequence[File], evaluation: Sequence[File], eval_name: str) -> None:
    """Refuse files that are in both splits, also through links.

    Raises:
        DataError: There are such files.
    """
    train_paths = {resolved: path for path, resolved in train}
    shared = [(path, train_paths[resolved]) for path, resolved in evaluation if resolved in train_paths]
    if shared:
        first, same = (printable(path) for path in shared[0])
        raise DataError(
            f"{len(shared)} images of {eval_name!r} are also training images, such as {first} (the same file as "
            f"{same}); remove them from one of the splits"
        )


def resolved_files(rows: datasets.Dataset, column: str) -> list[File]:
    """List the images that are files, and the paths with links resolved."""
    folders: dict[str, str] = {}
    files = []
    for path in encoded_images(rows, column).files():
        folder, name = os.path.split(path)
        if "://" not in path and folder not in folders:
            folders[folder] = os.path.realpath(folder)
        resolved = path if "://" in path else os.path.join(folders[folder], name)
        files.append((path, os.path.realpath(resolved) if os.path.islink(resolved) else resolved))
    return files


def count_shared_contents(train: datasets.Dataset, evaluation: datasets.Dataset, column: str) -> tuple[int, str]:
    """Count the evaluation images whose bytes equal those of a training image, and name the first.

    Sizes are compared first, then the first and last bytes of images of equal size, then all bytes.
    """
    splits = [_Contents(train, column), _Contents(evaluation, column)]
    keys: tuple[Callable[[_Contents, int], object], ...] = (_Contents.size, _Contents.ends, _Contents.digest)
    groups: _Groups = {(): [list(range(len(split.sizes))) for split in splits]}
    for key in keys:
        groups = _subdivide(groups, splits, key)
    shared = sorted(row for _, rows in groups.values() for row in rows)
    return len(shared), splits[1].name(shared[0]) if shared else ""


_Groups = dict[tuple[object, ...], list[list[int]]]
"""For each key, the rows of the training and of the evaluation split that share it."""


def _subdivide(groups: _Groups, splits: list[_Contents], key: Callable[[_Contents, int], object]) -> _Groups:
    """Divide groups by another key; drop those without an image of each split."""
    divided: _Groups = defaultdict(lambda: [[], []])
    for before, sides in groups.items():
        for side, rows in enumerate(sides):
            for row in rows:
                value = key(splits[side], row)
                if value is not None:
                    divided[(*before, value)][side].append(row)
    return {group: sides for group, sides in divided.items() if all(sides)}


class _Contents:
    """Bytes of a split's images, by row."""

    def __init__(self, rows: datasets.Dataset, column: str) -> None:
        self.images = encoded_images(rows, column)
        self.sizes = self.images.sizes()
        self._column = rows.data.column(column)
        self._rows = selected_rows(rows)

    def size(self, row: int) -> int | None:
        size = int(self.sizes[row])
        return size if size > 0 else None

    def ends(self, row: int) -> bytes | None:
        content = self._read(row, ends=True)
        return None if content is None else content[:_ENDS] + content[-_ENDS:]

    def digest(self, row: int) -> bytes | None:
        content = self._read(row, ends=False)
        return None if content is None else sha256(content).digest()

    def name(self, row: int) -> str:
        return self.images.paths[row] or f"row {int(self._rows[row])}"

    def _read(self, row: int, ends: bool) -> bytes | None:
        if self.images.lengths[row] >= 0:
            content: bytes = self._column[int(self._rows[row])]["bytes"].as_py()
            return content
        try:
            with open(self.images.paths[row] or "", "rb") as file:
                if not ends or self.sizes[row] <= 2 * _ENDS:
                    return file.read()
                first = file.read(_ENDS)
                file.seek(-_ENDS, os.SEEK_END)
                return first + file.read()
        except OSError:
            return None
