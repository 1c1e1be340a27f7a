"""A folder of photos with a CSV or TSV file of their labels: one label an image, or several."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from functools import cached_property

from ssia_zoo.data.image_files import ImageFiles, ImageFilesSource
from ssia_zoo.data.image_types import image_suffixes, suffix_of
from ssia_zoo.data.messages import abbreviate, is_main_process, printable
from ssia_zoo.data.scanning import Scanner
from ssia_zoo.data.splits import split_in_name, split_of_name
from ssia_zoo.data.spreadsheet import Spreadsheet, read_spreadsheet, resolve_labels
from ssia_zoo.data.table_labels import RowLabels, find_labels
from ssia_zoo.errors import DataError

_log = logging.getLogger(__name__)

_PATH_COLUMNS = ("path", "file_name", "filename", "file", "image", "image_path", "filepath", "image_id", "id")
_SPLIT_COLUMN = "split"


class TableSource(ImageFilesSource):
    """A folder of photos and a CSV or TSV file with a line per photo.

    Args:
        scanner: Lists the folder of photos.
        labels: The value of `labels`.
        image_column: The value of `image_column`.
        label_column: The value of `label_column`; for columns of 0 and 1, their names, separated by commas.
        separator: The value of `label_separator`.

    Raises:
        DataError: The file cannot be used.
    """

    def __init__(
        self,
        scanner: Scanner,
        labels: str,
        image_column: str | None = None,
        label_column: str | None = None,
        separator: str | None = None,
    ) -> None:
        path = resolve_labels(labels)
        self.scanner = scanner
        self.folder = str(path.parent)
        self.table = read_spreadsheet(path)
        self.image_column = _find_image_column(self.table, image_column)
        others = [
            column for column in self.table.columns if column != self.image_column and column.lower() != _SPLIT_COLUMN
        ]
        self.labels: RowLabels = find_labels(self.table, others, label_column, separator)
        for column in {self.image_column, self.labels.column} & {*self.table.columns}:
            self.table.refuse_line_breaks(column)
        self._skipped: Counter[str] = Counter()
        self._paths = self._resolve()
        self._resolved = [os.path.realpath(path) for path in self._paths]
        self._rows = self._group()

    @property
    def has_splits(self) -> bool:
        """Whether a column or the folders of the photos name splits."""
        return self._split_names is not None

    def splits(self) -> list[str]:
        """Return the names of the splits: train, validation and test for synonyms of these."""
        return list(self._rows)

    def find(self, name: str) -> str:
        """Return the split of this name, or that the name means."""
        return name if name in self._rows else split_of_name(name) or name

    def files(self, split: str) -> ImageFiles:
        """Return the images of a split, in the order of the file."""
        rows = self._rows[split]
        paths = [self._paths[row] for row in rows]
        return ImageFiles(
            paths=paths,
            labels=[self.labels.numbers[row] for row in rows],  # type: ignore[arg-type]  # all of one kind
            class_names=self.labels.names,
            resolved=[self._resolved[row] for row in rows],
            image_column=self.image_column,
            label_column=self.labels.column,
            several=self.labels.several,
        )

    def skipped(self) -> str:
        """Describe the photos that the file does not name, and lines that repeat another."""
        used = set(self._paths)
        unlabelled = [path for path in self._photos if path not in used]
        parts = [f"{reason} ({count})" for reason, count in self._skipped.items()]
        if unlabelled:
            some = abbreviate([self.scanner.relative(path) for path in unlabelled])
            parts.append(f"photos without a label ({len(unlabelled)}: {some})")
        return ", ".join(parts)

    # -- paths

    @cached_property
    def _photos(self) -> list[str]:
        """Paths of all images in the folder of photos."""
        return [
            os.path.join(folder, name)
            for folder, listing in self.scanner.walk(self.scanner.root)
            for name in listing.images
        ]

    @cached_property
    def _by_name(self) -> dict[str, str | None]:
        """The photo of each file name, with and without suffix; None where there are several."""
        found: dict[str, str | None] = {}
        for path in self._photos:
            name = os.path.basename(path)
            for key in (name, os.path.splitext(name)[0]):
                found[key] = path if key not in found else None
        return found

    def _resolve(self) -> list[str]:
        """Return the file of each row.

        Raises:
            DataError: A file does not exist.
        """
        names = self.table.cells[self.image_column]
        if empty := [row for row, name in enumerate(names) if not name]:
            where = self.table.describe_lines(empty)
            raise DataError(
                f"{len(empty)} rows of {self.table.name} have no {self.image_column} ({where}); fill or remove them"
            )
        paths = [self._find_file(name) for name in names]
        if missing := [name for name, path in zip(names, paths, strict=True) if path is None]:
            if several := [name for name in missing if self._by_name.get(name, "") is None]:
                raise DataError(
                    f"{len(several)} of {len(names)} names in {self.table.name} are those of several photos, such as "
                    f"{abbreviate([printable(name) for name in several])}; write the folder before the name, relative "
                    f"to {printable(self.scanner.root)}"
                )
            raise DataError(
                f"{len(missing)} of {len(names)} images in {self.table.name} do not exist, such as "
                f"{abbreviate([printable(name) for name in missing])}; expected paths relative to "
                f"{printable(self.scanner.root)} or {printable(self.folder)}"
            )
        return [path for path in paths if path is not None]

    def _find_file(self, name: str) -> str | None:
        """Return the file of a path, which may have backslashes, or of a name without folder or without suffix."""
        for path in dict.fromkeys((name, name.replace("\\", "/"))):
            for folder in (self.scanner.root, self.folder):
                file = os.path.normpath(os.path.join(folder, path))
                if os.path.lexists(file) and not os.path.isdir(file):
                    return file
        if "/" in name or "\\" in name:
            return None
        return self._by_name.get(name)

    # -- splits

    @cached_property
    def _split_names(self) -> list[str] | None:
        """The split of each row, by a column of this name or the first folder of each path; None without splits."""
        column = next((name for name in self.table.columns if name.lower() == _SPLIT_COLUMN), None)
        if column is not None:
            cells = self.table.cells[column]
            if empty := [row for row, cell in enumerate(cells) if not cell]:
                where = self.table.describe_lines(empty)
                raise DataError(f"{len(empty)} rows of {self.table.name} have no {column} ({where}); fill them")
            return [split_of_name(cell) or cell for cell in cells]
        names = [self.scanner.relative(path).split(os.sep) for path in self._paths]
        words = [split_in_name(parts[0]) if len(parts) > 1 else None for parts in names]
        if None in words or len(set(words)) == 1:
            return None
        if is_main_process():
            _log.info("%s has no column %r; the first folder of each path names it", self.table.name, _SPLIT_COLUMN)
        return [word for word in words if word is not None]

    def _group(self) -> dict[str, list[int]]:
        """Return the rows of each split, without those that repeat an image."""
        splits = self._split_names or ["train"] * len(self.table)
        first: dict[tuple[str, str], int] = {}
        rows: dict[str, list[int]] = {}
        for row, (split, path) in enumerate(zip(splits, self._resolved, strict=True)):
            other = first.setdefault((split, path), row)
            if other == row:
                rows.setdefault(split, []).append(row)
            elif self.labels.numbers[other] == self.labels.numbers[row]:
                self._skipped["rows that repeat an image"] += 1
            else:
                raise DataError(self._two_labels(other, row))
        return rows

    def _two_labels(self, first: int, second: int) -> str:
        name = printable(self.table.cells[self.image_column][second])
        labels = [f"{self.labels.describe(row)} (line {self.table.lines[row]})" for row in (first, second)]
        advice = "keep one line" if self.labels.several else "keep one line, or write several labels as cat;dog"
        return f"{name} has different labels in {self.table.name}: {' and '.join(labels)}; {advice}"


def _find_image_column(table: Spreadsheet, given: str | None) -> str:
    """Return the given column, or the only one of image file names, or one with a usual name of paths."""
    if given is not None:
        return table.check_column(given, "image_column")
    suffixes = image_suffixes()
    paths = [name for name in table.columns if _all(table.cells[name], suffixes)]
    usual = [name for name in table.columns if name.lower() in _PATH_COLUMNS]
    candidates: Sequence[str] = paths or sorted(usual, key=lambda name: _PATH_COLUMNS.index(name.lower()))[:1]
    if len(candidates) == 1:
        return candidates[0]
    columns = abbreviate(candidates or table.columns, 20)
    wrong = "several columns of images" if candidates else "no column of image paths"
    raise DataError(f"{table.name} has {wrong}; set `image_column` to one of: {columns}")


def _all(cells: Sequence[str], suffixes: frozenset[str]) -> bool:
    return all(suffix_of(cell) in suffixes for cell in cells[:100] if cell) and any(cells[:100])
