"""Folders of images: the first level names the split, the level below it the class, all below that belongs to it."""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import islice

import datasets
import pyarrow as pa

from ssia_zoo.data.scanning import Scanner, few, printable
from ssia_zoo.data.split_words import split_kind, split_word
from ssia_zoo.errors import DataError

_log = logging.getLogger(__name__)

_SEVERAL = 2
_DATA_SUFFIXES = (".parquet", ".arrow", ".tar", ".tar.gz", ".tgz", ".jsonl")


@dataclass(frozen=True)
class ImageFiles:
    """The images of one split, sorted by path."""

    paths: list[str]
    labels: list[int]
    names: list[str]
    """Of the classes, sorted."""
    resolved: list[str]
    """The paths with every link followed."""

    def rows(self, split: str) -> datasets.Dataset:
        """Make rows of them, which read a file when it is decoded."""
        labels = datasets.ClassLabel(names=self.names)
        images = pa.StructArray.from_arrays(
            [pa.nulls(len(self.paths), pa.binary()), pa.array(self.paths)], ["bytes", "path"]
        )
        table = pa.table({"image": images, "label": pa.array(self.labels, pa.int64())})
        info = datasets.DatasetInfo(features=datasets.Features({"image": datasets.Image(), "label": labels}))
        digest = sha256("\0".join([*self.paths, *self.names, *map(str, self.labels)]).encode()).hexdigest()
        name = datasets.NamedSplit(re.sub(r"\W", "_", split))
        return datasets.Dataset(table, info, split=name, fingerprint=digest[:16])


class ImageFolder:
    """A folder of images on disk.

    Args:
        scanner: Of its path.
        asked: Splits that the user named: folders of this name are splits, whatever they are called.
    """

    def __init__(self, scanner: Scanner, asked: Collection[str] = ()) -> None:
        self.root = scanner.root
        self.asked = frozenset(asked)
        self.scanner = scanner
        self._files: dict[str, ImageFiles] = {}

    @cached_property
    def folders(self) -> dict[str, str]:
        """The folder of each split."""
        found = _find_splits(self.scanner, self.root, self.asked)
        return found if found is not None else {"train": self.root}

    @property
    def has_splits(self) -> bool:
        """Whether the first level names splits; else all images are of one, and the first level names classes."""
        return self.root not in self.folders.values()

    def splits(self) -> list[str]:
        """Name the splits: train, validation and test in place of other words for these."""
        return list(self.folders)

    def find(self, name: str) -> str:
        """The split of this name; a folder's own name does as well."""
        if name in self.folders:
            return name
        by_folder = {os.path.basename(path): split for split, path in self.folders.items()}
        return by_folder.get(name, name)

    def load(self, split: str) -> datasets.Dataset:
        """List the images of a split.

        Raises:
            DataError: It holds images, but not in class folders; or a class folder that cannot be used.
        """
        return self.files(split).rows(split)

    def files(self, split: str) -> ImageFiles:
        """List the images of a split, once."""
        if split not in self._files:
            self._files[split] = _list_images(self.scanner, self.folders[split], split)
        return self._files[split]

    def class_names(self, split: str) -> list[str]:
        """Name the classes of a split, without listing its images."""
        folder = self.folders[split]
        classes = self.scanner.list(folder).folders
        return sorted({_class_name(name) for name in classes if self.scanner.has_image(os.path.join(folder, name))})

    def left_out(self) -> str:
        """Name what is not used of what has been listed, and why; "" if all is."""
        counts = self.scanner.left_out
        if self.has_splits:
            top = self.scanner.list(self.root)
            counts = counts + Counter({"images outside the splits": len(top.images)})
        parts = [f"{reason} ({count})" for reason, count in counts.items() if count]
        if self.scanner.empty:
            parts.append(f"folders without images ({few(self.scanner.empty)})")
        return ", ".join(parts)


def is_image_folder(scanner: Scanner) -> bool:
    """Tell a folder of images from one of data files (parquet, webdataset, …) or of images with a metadata file."""
    root = scanner.root
    folders = [root, *(os.path.join(root, name) for name in scanner.list(root).folders)]
    others = [os.path.join(folder, name) for folder in folders for name in scanner.list(folder).others]
    if any(map(_is_metadata, others)) or not scanner.has_image(root):
        return False
    if any(path.lower().endswith(_DATA_SUFFIXES) for path in others):
        return _find_splits(scanner, root, frozenset()) is not None
    return True


def _is_metadata(path: str) -> bool:
    """Tell whether it is a file that says of images what they show, as `datasets` takes it."""
    name = os.path.basename(path)
    if name == "metadata.parquet":
        return True
    if name not in ("metadata.csv", "metadata.jsonl"):
        return False
    with open(path, encoding="utf-8", errors="replace") as file:
        return "file_name" in file.readline(10_000)


# -- which folders are splits


def _find_splits(scanner: Scanner, root: str, asked: frozenset[str]) -> dict[str, str] | None:
    """The folder of each split, or None if the first level names classes."""
    top = scanner.list(root)
    names = [name for name in top.folders if scanner.has_image(os.path.join(root, name))]
    if not _are_splits(scanner, root, names, asked):
        if len(names) == 1 and not top.images:  # one folder around all of them, as archives have
            return _find_splits(scanner, os.path.join(root, names[0]), asked)
        return None
    for name in top.folders:
        if name not in names:
            _pass_over(scanner, os.path.join(root, name))
    kinds = {name: split_word(name) for name in names}
    several = Counter(kinds.values())
    folders = {}
    for name in names:
        kind = kinds[name]
        folders[kind if kind is not None and several[kind] == 1 else name] = os.path.join(root, name)
    return _inside(scanner, folders)


def _pass_over(scanner: Scanner, folder: str) -> None:
    """Note a folder without images beside the splits; refuse a split of images that are not read."""
    foreign = scanner.foreign(folder) if split_word(os.path.basename(folder)) else None
    if foreign is not None:
        raise DataError(
            f"the split {scanner.relative(folder)} in {printable(scanner.root)} holds no image of a type that is read, "
            f"but {scanner.relative(foreign)}; convert or rename its images, or remove the folder"
        )
    if (name := scanner.relative(folder)) not in scanner.empty:
        scanner.empty.append(name)


def _are_splits(scanner: Scanner, root: str, names: Sequence[str], asked: frozenset[str]) -> bool:
    if asked & set(names):
        return True
    exact = {name for name in names if split_kind(name)}
    if exact and exact == set(names):
        return True
    classes = {name: _count_classes(scanner, os.path.join(root, name)) for name in names}
    words = {name for name in names if classes[name] and split_word(name)}
    others = [name for name in names if name not in words]
    several = len({split_word(name) for name in words}) > 1
    if exact:
        if not exact & words:  # they hold images as the others do: classes
            return False
        if several:
            return True
    else:
        if not words or (others and not several):
            return False
        if all(classes[name] < _SEVERAL for name in others):
            return True
    raise DataError(
        f"{printable(root)}: {min(exact & words or words)} can be a split or a class beside {few(others)}; name the "
        "split by --train-split or --eval-split, or put all classes into one folder called train"
    )


def _count_classes(scanner: Scanner, folder: str) -> int:
    """Count the folders of images in a folder, up to two."""
    names = scanner.list(folder).folders
    return sum(1 for _ in islice((name for name in names if scanner.has_image(os.path.join(folder, name))), _SEVERAL))


def _inside(scanner: Scanner, folders: dict[str, str]) -> dict[str, str]:
    """Of splits that are folders in folders of the same name (train/train/cat, as in some archives), the inner ones."""
    inner = {}
    for split, folder in folders.items():
        listing = scanner.list(folder)
        if listing.images or listing.folders != [os.path.basename(folder)]:
            return folders
        inner[split] = os.path.join(folder, listing.folders[0])
    return inner if any(_count_classes(scanner, folder) for folder in inner.values()) else folders


# -- which images they hold


def _list_images(scanner: Scanner, folder: str, split: str) -> ImageFiles:
    top = scanner.list(folder)
    scanner.leave_out(top)
    by_class: dict[str, list[tuple[str, str]]] = {}
    for name in top.folders:
        images = _class_images(scanner, os.path.join(folder, name))
        if images:
            by_class.setdefault(_class_name(name), []).extend(images)
    if not by_class and top.images:
        raise DataError(
            f"{scanner.relative(folder)} in {printable(scanner.root)} has {len(top.images)} images but no classes; "
            "expected at least two, such as two subfolders of images named for theirs"
        )
    scanner.left_out[f"images outside the class folders of {split}"] += len(top.images)
    for name in top.hidden:
        if os.path.isdir(os.path.join(folder, name)):
            scanner.left_out[f"hidden folder {scanner.relative(os.path.join(folder, name))}"] += 1
            scanner.left_out["hidden"] -= 1
    names = sorted(by_class)
    found = [(path, resolved, number) for number, name in enumerate(names) for path, resolved in by_class[name]]
    return _once(scanner, found, names)


def _class_images(scanner: Scanner, folder: str) -> list[tuple[str, str]]:
    """Paths of the images of a class, and where links lead."""
    images = []
    for place, listing in scanner.walk(folder):
        scanner.leave_out(listing)
        real = os.path.realpath(place)
        for name in listing.images:
            path = os.path.join(place, name)
            images.append((path, os.path.realpath(path) if name in listing.links else os.path.join(real, name)))
    if not images:
        foreign = scanner.foreign(folder)
        if foreign is not None:
            raise DataError(
                f"the class folder {scanner.relative(folder)} in {printable(scanner.root)} holds no image of a type "
                f"that is read, but {scanner.relative(foreign)}; convert or rename its images, or remove the folder"
            )
        scanner.empty.append(scanner.relative(folder))
    return images


def _once(scanner: Scanner, found: list[tuple[str, str, int]], names: list[str]) -> ImageFiles:
    """Each file once, though links may lead to it by several ways."""
    seen: dict[str, tuple[str, int]] = {}
    kept = []
    for path, resolved, label in found:
        if not path.isascii() or not resolved.isascii():
            _check_name(scanner, path)
        first = seen.setdefault(resolved, (path, label))
        if first[1] != label:
            raise DataError(
                f"{scanner.relative(first[0])} and {scanner.relative(path)} in {printable(scanner.root)} are the same "
                "file in two classes; remove one of the links"
            )
        if first[0] == path:
            kept.append((path, resolved, label))
        else:
            scanner.left_out["links to images that are there already"] += 1
    paths, resolved_paths, labels = ([item[part] for item in kept] for part in range(3))
    return ImageFiles(paths, labels, names, resolved_paths)  # type: ignore[arg-type]


def _class_name(name: str) -> str:
    """One spelling of names that look alike: file systems differ in how they compose accents."""
    return unicodedata.normalize("NFC", name)


def _check_name(scanner: Scanner, path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"the name of {scanner.relative(path)} in {printable(scanner.root)} is not UTF-8; rename it"
        ) from error
