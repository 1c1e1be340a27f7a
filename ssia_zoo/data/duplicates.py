"""Images that are both trained and evaluated on: the same files are refused, the same contents warned of."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from hashlib import sha256

import datasets

from ssia_zoo.data.scanning import printable
from ssia_zoo.data.encoded import StoredImages, selected_rows, stored_images
from ssia_zoo.errors import DataError

ALWAYS_LOOKED_AT = 10_000  # images of both splits
File = tuple[str, str]  # its path, and the same with every link followed
_ENDS = 4096  # bytes of the beginning and of the end, which tell most images apart


def refuse_shared_files(train: Sequence[File], evaluation: Sequence[File], eval_name: str) -> None:
    """Refuse files that are in both, by whatever links.

    Raises:
        DataError: There is one.
    """
    trained = {resolved: path for path, resolved in train}
    shared = [(path, trained[resolved]) for path, resolved in evaluation if resolved in trained]
    if shared:
        first, same = (printable(path) for path in shared[0])
        raise DataError(
            f"{len(shared)} images of {eval_name!r} are files that are trained on as well, such as {first} (the same "
            f"as {same}); remove them from one of the splits"
        )


def resolved_files(rows: datasets.Dataset, column: str) -> list[File]:
    """List the images that are files, with their links followed."""
    folders: dict[str, str] = {}
    files = []
    for path in stored_images(rows, column).files():
        folder, name = os.path.split(path)
        if "://" not in path and folder not in folders:
            folders[folder] = os.path.realpath(folder)
        resolved = path if "://" in path else os.path.join(folders[folder], name)
        files.append((path, os.path.realpath(resolved) if os.path.islink(resolved) else resolved))
    return files


def count_shared_contents(train: datasets.Dataset, evaluation: datasets.Dataset, column: str) -> tuple[int, str]:
    """Count the images to evaluate on whose bytes are those of an image to train on, and name the first.

    Only images of equal size are read, first the two ends of them, then all.
    """
    parts = [_Images(train, column), _Images(evaluation, column)]
    keys: tuple[Callable[[_Images, int], object], ...] = (_Images.size, _Images.ends, _Images.digest)
    groups: Groups = {(): [list(range(len(part.sizes))) for part in parts]}
    for key in keys:
        groups = _split(groups, parts, key)
    shared = sorted(row for _, rows in groups.values() for row in rows)
    return len(shared), parts[1].name(shared[0]) if shared else ""


Groups = dict[tuple[object, ...], list[list[int]]]


def _split(groups: Groups, parts: list[_Images], key: Callable[[_Images, int], object]) -> Groups:
    """Divide groups of images by a key, and drop those without an image of each split."""
    divided: dict[tuple[object, ...], list[list[int]]] = defaultdict(lambda: [[], []])
    for before, sides in groups.items():
        for side, rows in enumerate(sides):
            for row in rows:
                value = key(parts[side], row)
                if value is not None:
                    divided[(*before, value)][side].append(row)
    return {group: sides for group, sides in divided.items() if all(sides)}


class _Images:
    def __init__(self, rows: datasets.Dataset, column: str) -> None:
        self.images: StoredImages = stored_images(rows, column)
        self.sizes = self.images.sizes()
        self._stored = rows.data.column(column)
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
            content: bytes = self._stored[int(self._rows[row])]["bytes"].as_py()
            return content
        try:
            with open(self.images.paths[row] or "", "rb") as file:
                if not ends or self.sizes[row] <= 2 * _ENDS:
                    return file.read()
                begin = file.read(_ENDS)
                file.seek(-_ENDS, os.SEEK_END)
                return begin + file.read()
        except OSError:
            return None
