"""Find the labels in a spreadsheet: a column of names, several names in a cell, or a column of 0 and 1 per class."""

from __future__ import annotations

import logging
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from ssia_zoo.data.messages import abbreviate, is_main_process
from ssia_zoo.data.spreadsheet import Spreadsheet
from ssia_zoo.errors import DataError

_log = logging.getLogger(__name__)

_LABEL_COLUMNS = ("label", "labels", "class", "cls", "category")
_SEPARATORS = (";", "|")
_FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}


@dataclass(frozen=True)
class RowLabels:
    """The labels of all rows, as numbers of classes."""

    column: str
    """Name of the column, or of the columns of 0 and 1."""
    names: list[str]
    """Names of the classes, sorted; numbers by their value."""
    numbers: list[int] | list[list[int]]
    """Class of each row, or its classes in ascending order."""
    several: bool
    """Whether a row has a list of classes."""

    def describe(self, row: int) -> str:
        """Return the names of a row's classes for messages."""
        numbers = self.numbers[row]
        return repr(
            ";".join(self.names[number] for number in numbers) if isinstance(numbers, list) else self.names[numbers]
        )


def normalize(name: str) -> str:
    """Return a class name in one Unicode form, as file systems differ in how they store accents."""
    return unicodedata.normalize("NFC", name)


def find_labels(table: Spreadsheet, candidates: Sequence[str], given: str | None, separator: str | None) -> RowLabels:
    """Find the labels and number the classes.

    Args:
        table: The file.
        candidates: Columns that may hold labels.
        given: The value of `label_column`; for columns of 0 and 1, their names, separated by commas.
        separator: What separates several labels in a cell; if None, found; if "", there is one label per cell.

    Raises:
        DataError: There is no such column, or a label is missing.
    """
    columns = _find_columns(table, candidates, given)
    if len(columns) > 1:
        return _from_flags(table, columns, given)
    column = columns[0]
    cells = [normalize(cell) for cell in table.cells[column]]
    if separator is None:
        separator = next((mark for mark in _SEPARATORS if any(mark in cell for cell in cells)), "")
        if separator:
            _info(
                "%s: several labels an image, separated by %r in %d of %d rows; if it belongs to a name, set "
                "`label_separator` to ''",
                *(table.name, separator, sum(separator in cell for cell in cells), len(cells)),
            )
    if separator:
        return _from_lists(table, column, cells, separator)
    if empty := [row for row, cell in enumerate(cells) if not cell]:
        where = table.describe_lines(empty)
        raise DataError(f"{len(empty)} rows of {table.name} have no {column} ({where}); label or remove them")
    names = _sorted_names(cells, table)
    number_of = {name: number for number, name in enumerate(names)}
    return RowLabels(column, names, [number_of[cell] for cell in cells], several=False)


def _find_columns(table: Spreadsheet, candidates: Sequence[str], given: str | None) -> list[str]:
    """Return the column of labels, or at least two columns of 0 and 1."""
    if given is not None:
        if "," in given and given not in table.columns:
            return [table.check_column(name.strip(), "label_column") for name in given.split(",")]
        return [table.check_column(given, "label_column")]
    usual = [name for name in candidates if name.lower() in _LABEL_COLUMNS]
    if len(usual) == 1 or len(candidates) == 1:
        return usual or list(candidates)
    flags = [name for name in candidates if all(cell.lower() in _FLAGS for cell in table.cells[name])]
    if len(flags) > 1 and not usual:
        others = [name for name in candidates if name not in flags]
        unused = f"; not used: {abbreviate(others, 20)}" if others else ""
        _info("%s: the classes are %d columns of 0 and 1: %s%s", table.name, len(flags), abbreviate(flags), unused)
        return flags
    wrong = "several columns of labels" if usual else "no column called label"
    if not candidates:
        raise DataError(f"{table.name} has no column beside the image paths; add one of labels")
    raise DataError(f"{table.name} has {wrong}; set `label_column` to one of: {abbreviate(usual or candidates, 20)}")


def _from_flags(table: Spreadsheet, columns: Sequence[str], given: str | None) -> RowLabels:
    """Read columns of 0 and 1; if each row has exactly one 1, the labels are single."""
    for name in columns:
        wrong = [row for row, cell in enumerate(table.cells[name]) if cell.lower() not in _FLAGS]
        if wrong:
            raise DataError(
                f"the column {name!r} of {table.name} holds {table.cells[name][wrong[0]]!r} "
                f"({table.describe_lines(wrong)}); expected 0 or 1"
            )
    rows = list(zip(*(table.cells[name] for name in columns), strict=True))
    numbers = [[number for number, cell in enumerate(row) if _FLAGS[cell.lower()]] for row in rows]
    column, names = given or "labels", [normalize(name) for name in columns]
    if all(len(row) == 1 for row in numbers):
        _info("%s: one label an image, as each row has exactly one 1", table.name)
        return RowLabels(column, names, [row[0] for row in numbers], several=False)
    _report_unlabelled(table, numbers)
    return RowLabels(column, names, numbers, several=True)


def _from_lists(table: Spreadsheet, column: str, cells: Sequence[str], separator: str) -> RowLabels:
    parts = [sorted({part.strip() for part in cell.split(separator)} - {""}) for cell in cells]
    names = _sorted_names(list(chain.from_iterable(parts)), table)
    number_of = {name: number for number, name in enumerate(names)}
    numbers = [sorted(number_of[part] for part in row) for row in parts]
    _report_unlabelled(table, numbers)
    return RowLabels(column, names, numbers, several=True)


def _report_unlabelled(table: Spreadsheet, numbers: Sequence[Sequence[int]]) -> None:
    if empty := [row for row, labels in enumerate(numbers) if not labels]:
        _info("%s: %d images are of none of the classes (%s)", table.name, len(empty), table.describe_lines(empty))


def _sorted_names(labels: Sequence[str], table: Spreadsheet) -> list[str]:
    """Return the different labels in order; warn of those that differ only in case."""
    names = sorted(set(labels))
    if names and all(name.isdecimal() for name in names):
        names.sort(key=int)
    counts = Counter(name.casefold() for name in names)
    if alike := [name for name in names if counts[name.casefold()] > 1]:
        _log.warning("%s: classes that differ only in case: %s", table.name, abbreviate(alike, 6))
    return names


def _info(message: str, *values: object) -> None:
    if is_main_process():
        _log.info(message, *values)
