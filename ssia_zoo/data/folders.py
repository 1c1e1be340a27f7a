"""Folders of images: the first level names the split, the level below it the class of all images inside."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Sequence
from functools import cached_property
from itertools import islice

from ssia_zoo.data.image_files import ImageFiles, ImageFilesSource
from ssia_zoo.data.messages import abbreviate, printable
from ssia_zoo.data.scanning import Scanner
from ssia_zoo.data.splits import split_in_name, split_of_name
from ssia_zoo.data.table_labels import normalize
from ssia_zoo.errors import DataError

_SEVERAL = 2
_DATA_SUFFIXES = (".parquet", ".arrow", ".tar", ".tar.gz", ".tgz", ".jsonl")


class FolderSource(ImageFilesSource):
    """A folder of images.

    Args:
        scanner: Lists its folders.
        given: Splits named by the settings: folders of these names are splits, even if the names do not look like it.
    """

    def __init__(self, scanner: Scanner, given: Collection[str] = ()) -> None:
        self.root = scanner.root
        self.given = frozenset(given)
        self.scanner = scanner
        self._files: dict[str, ImageFiles] = {}

    @cached_property
    def folders(self) -> dict[str, str]:
        """The folder of each split."""
        found = _find_splits(self.scanner, self.root, self.given)
        return found if found is not None else {"train": self.root}

    @property
    def has_splits(self) -> bool:
        """Whether the first level names splits; otherwise it names classes, and all images are one split."""
        return self.root not in self.folders.values()

    def splits(self) -> list[str]:
        """Return the names of the splits: train, validation and test for folders with synonyms of these."""
        return list(self.folders)

    def find(self, name: str) -> str:
        """Return the split of this name, or of the folder of this name."""
        if name in self.folders:
            return name
        by_folder = {os.path.basename(path): split for split, path in self.folders.items()}
        return by_folder.get(name, name)

    def files(self, split: str) -> ImageFiles:
        """List the images of a split, once.

        Raises:
            DataError: The split holds images, but no class folders; or a class folder that cannot be used.
        """
        if split not in self._files:
            self._files[split] = _list_images(self.scanner, self.folders[split], split)
        return self._files[split]

    def class_names(self, split: str) -> list[str]:
        """Return the class names of a split without listing its images."""
        folder = self.folders[split]
        classes = self.scanner.list(folder).folders
        return sorted({normalize(name) for name in classes if self.scanner.has_image(os.path.join(folder, name))})

    def skipped(self) -> str:
        """Describe the listed files and folders that are not used, with reasons; "" if there are none."""
        counts = self.scanner.skipped
        if self.has_splits:
            top = self.scanner.list(self.root)
            counts = counts + Counter({"images outside the splits": len(top.images)})
        parts = [f"{reason} ({count})" for reason, count in counts.items() if count]
        if self.scanner.empty:
            parts.append(f"folders without images ({abbreviate(self.scanner.empty)})")
        return ", ".join(parts)


def is_image_folder(scanner: Scanner) -> bool:
    """Return whether a folder holds images, rather than data files (parquet, …) or images with a metadata file."""
    root = scanner.root
    folders = [root, *(os.path.join(root, name) for name in scanner.list(root).folders)]
    others = [os.path.join(folder, name) for folder in folders for name in scanner.list(folder).others]
    if any(map(_is_metadata, others)) or not scanner.has_image(root):
        return False
    data_files = [path for path in others if path.lower().endswith(_DATA_SUFFIXES)]
    if not data_files or _find_splits(scanner, root, frozenset()) is not None:
        return True
    if any(split_in_name(os.path.relpath(path, root)) for path in data_files):
        return False
    # A file that names no split, beside folders of images, is not the data set, but features saved there, or a backup.
    return sum(scanner.has_image(folder) for folder in folders[1:]) > 1


def _is_metadata(path: str) -> bool:
    """Return whether the library datasets reads labels of images from this file."""
    name = os.path.basename(path)
    if name == "metadata.parquet":
        return True
    if name not in ("metadata.csv", "metadata.jsonl"):
        return False
    with open(path, encoding="utf-8", errors="replace") as file:
        return "file_name" in file.readline(10_000)


# -- splits


def _find_splits(scanner: Scanner, root: str, given: frozenset[str]) -> dict[str, str] | None:
    """Return the folder of each split; None if the first level names classes."""
    top = scanner.list(root)
    names = [name for name in top.folders if scanner.has_image(os.path.join(root, name))]
    if not _are_splits(scanner, root, names, given):
        if len(names) == 1 and not top.images:  # one folder around all others, as in archives
            return _find_splits(scanner, os.path.join(root, names[0]), given)
        return None
    for name in top.folders:
        if name not in names:
            _skip_empty(scanner, os.path.join(root, name))
    splits = {name: split_in_name(name) for name in names}
    counts = Counter(splits.values())
    folders = {}
    for name in names:
        split = splits[name]
        folders[split if split is not None and counts[split] == 1 else name] = os.path.join(root, name)
    return _unwrap(scanner, folders)


def _skip_empty(scanner: Scanner, folder: str) -> None:
    """Record a folder without images beside the splits; refuse a split of images of an unsupported type."""
    foreign = scanner.find_foreign(folder) if split_in_name(os.path.basename(folder)) else None
    if foreign is not None:
        raise DataError(_only_foreign(scanner, "split", folder, foreign))
    if (name := scanner.relative(folder)) not in scanner.empty:
        scanner.empty.append(name)


def _are_splits(scanner: Scanner, root: str, names: Sequence[str], given: frozenset[str]) -> bool:
    """Return whether folders are splits rather than classes.

    They are if a setting names one, or if the name of each is that of a split. Otherwise the names count that hold a
    word for a split, of folders with folders inside.
    """
    if given & set(names):
        return True
    exact = {name for name in names if split_of_name(name)}
    if exact and exact == set(names):
        return True
    classes = {name: _count_classes(scanner, os.path.join(root, name)) for name in names}
    words = {name for name in names if classes[name] and split_in_name(name)}
    others = [name for name in names if name not in words]
    several = len({split_in_name(name) for name in words}) > 1
    if exact:
        if not exact & words:  # they hold images directly, as the others do: classes
            return False
        if several:
            return True
    else:
        if not words or (others and not several):
            return False
        if all(classes[name] < _SEVERAL for name in others):
            return True
    raise DataError(
        f"{printable(root)}: {min(exact & words or words)} can be a split or a class beside {abbreviate(others)}; name "
        "the split by `train_split` or `eval_split`, or put all classes into one folder called train"
    )


def _count_classes(scanner: Scanner, folder: str) -> int:
    """Count the folders of images in a folder, up to two."""
    names = scanner.list(folder).folders
    return sum(1 for _ in islice((name for name in names if scanner.has_image(os.path.join(folder, name))), _SEVERAL))


def _unwrap(scanner: Scanner, folders: dict[str, str]) -> dict[str, str]:
    """Return the inner folders if each split is a folder in a folder of the same name, as in some archives."""
    inner = {}
    for split, folder in folders.items():
        listing = scanner.list(folder)
        if listing.images or listing.folders != [os.path.basename(folder)]:
            return folders
        inner[split] = os.path.join(folder, listing.folders[0])
    return inner if any(_count_classes(scanner, folder) for folder in inner.values()) else folders


def _only_foreign(scanner: Scanner, kind: str, folder: str, foreign: str) -> str:
    return (
        f"the {kind} {scanner.relative(folder)} in {printable(scanner.root)} holds no image of a supported type, but "
        f"{scanner.relative(foreign)}; convert or rename its images, or remove the folder"
    )


# -- images


def _list_images(scanner: Scanner, folder: str, split: str) -> ImageFiles:
    top = scanner.list(folder)
    scanner.skip(top)
    by_class: dict[str, list[tuple[str, str]]] = {}
    for name in top.folders:
        images = _list_class(scanner, os.path.join(folder, name))
        if images:
            by_class.setdefault(normalize(name), []).extend(images)
    if not by_class and top.images:
        raise DataError(
            f"{scanner.relative(folder)} in {printable(scanner.root)} has {len(top.images)} images but no classes; "
            "expected at least two, such as one subfolder per class; or set `labels` to a CSV file of paths and labels"
        )
    scanner.skipped[f"images outside the class folders of {split}"] += len(top.images)
    for name in top.hidden:
        if os.path.isdir(os.path.join(folder, name)):
            scanner.skipped[f"hidden folder {scanner.relative(os.path.join(folder, name))}"] += 1
            scanner.skipped["hidden"] -= 1
    names = sorted(by_class)
    found = [(path, resolved, number) for number, name in enumerate(names) for path, resolved in by_class[name]]
    return _remove_repeats(scanner, found, names)


def _list_class(scanner: Scanner, folder: str) -> list[tuple[str, str]]:
    """Return the paths of a class's images, also with links resolved."""
    images = []
    for place, listing in scanner.walk(folder):
        scanner.skip(listing)
        resolved_place = os.path.realpath(place)
        for name in listing.images:
            path = os.path.join(place, name)
            resolved = os.path.realpath(path) if name in listing.links else os.path.join(resolved_place, name)
            images.append((path, resolved))
    if not images:
        foreign = scanner.find_foreign(folder)
        if foreign is not None:
            raise DataError(_only_foreign(scanner, "class folder", folder, foreign))
        scanner.empty.append(scanner.relative(folder))
    return images


def _remove_repeats(scanner: Scanner, found: list[tuple[str, str, int]], names: list[str]) -> ImageFiles:
    """Keep each file once, whatever links lead to it."""
    seen: dict[str, tuple[str, int]] = {}
    kept = []
    for path, resolved, label in found:
        if not path.isascii() or not resolved.isascii():
            _check_utf8(scanner, path)
        first_path, first_label = seen.setdefault(resolved, (path, label))
        if first_label != label:
            raise DataError(
                f"{scanner.relative(first_path)} and {scanner.relative(path)} in {printable(scanner.root)} are one "
                "file in two classes; remove one of the links"
            )
        if first_path == path:
            kept.append((path, resolved, label))
        else:
            scanner.skipped["links to the same images"] += 1
    return ImageFiles(
        paths=[path for path, _, _ in kept],
        labels=[label for _, _, label in kept],
        class_names=names,
        resolved=[resolved for _, resolved, _ in kept],
    )


def _check_utf8(scanner: Scanner, path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"the name of {scanner.relative(path)} in {printable(scanner.root)} is not UTF-8; rename it"
        ) from error
