"""Read a CSV or TSV file as people write it: any common separator and encoding, one line per fault."""

from __future__ import annotations

import csv
import io
import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ssia_zoo.data.image_types import image_suffixes, suffix_of
from ssia_zoo.data.messages import abbreviate, is_main_process, printable
from ssia_zoo.errors import DataError, did_you_mean, one_line

_log = logging.getLogger(__name__)

DELIMITERS = ("\t", ",", ";")
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # .xlsx and .ods; .xls
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Spreadsheet:
    """The cells of a file, without spaces around them."""

    name: str
    """Name of the file, for messages."""
    columns: tuple[str, ...]
    """Names in the first line; columns without a name are left out."""
    cells: dict[str, list[str]]
    """Cells of each column."""
    lines: list[int]
    """Line of each row in the file, counted from 1."""

    def __len__(self) -> int:
        return len(self.lines)

    def check_column(self, name: str, setting: str) -> str:
        """Return the name of a column.

        Raises:
            DataError: There is no such column.
        """
        if name in self.columns:
            return name
        hint = did_you_mean(name, self.columns, "choose one of them", most=1)
        raise DataError(f"{self.name} has no column {name!r} (`{setting}`), but {abbreviate(self.columns, 20)}; {hint}")

    def refuse_line_breaks(self, column: str) -> None:
        """Refuse cells of several lines: two stray quotes make one cell of all lines between them.

        Raises:
            DataError: There is such a cell.
        """
        for line, cell in zip(self.lines, self.cells[column], strict=True):
            if "\n" in cell or "\r" in cell:
                raise DataError(
                    f"line {line} of {self.name} ends a cell of several lines in {column!r}, "
                    f"{printable(cell.splitlines()[0])!r} and more; remove the quotes around it"
                )

    def describe_lines(self, rows: Sequence[int]) -> str:
        """Return "line 4" or "lines 4, 9, 12, …" for rows."""
        return f"line{'s' * (len(rows) > 1)} {abbreviate([str(self.lines[row]) for row in rows])}"


def read_spreadsheet(path: Path) -> Spreadsheet:
    """Read a text file of columns that are separated by commas, semicolons or tabs, with their names in the first line.

    The encoding is UTF-8 or UTF-16; any other is read as Windows-1252, which includes Latin-1, with a warning.

    Raises:
        DataError: It cannot be read, has no line of names, or a line has more or fewer cells than there are columns.
    """
    name = printable(path.name)
    text = _decode(_read(path), name)
    first = text.lstrip().partition("\n")[0]
    delimiter = "\t" if suffix_of(name) == ".tsv" else max(DELIMITERS, key=first.count)
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=delimiter != "\t", strict=True
    )
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise DataError(f"line {reader.line_num} of {name} cannot be read ({one_line(error)}); repair it") from error
    filled = [(line, row) for line, row in rows if any(row)]
    if not filled:
        raise DataError(f"{name} is empty; expected a line of column names, such as path,label, and a line per image")
    columns = _check_header(filled[0][1], name)
    table = [_fit(row, len(columns), line, name) for line, row in filled[1:]]
    if not table:
        raise DataError(f"{name} has column names, but no line below them; add one per image")
    cells = {column: [row[place] for row in table] for place, column in enumerate(columns) if column}
    return Spreadsheet(name, tuple(cells), cells, [line for line, _ in filled[1:]])


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise DataError(f"`labels` {path} is a folder; expected a CSV or TSV file")
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        beside = [file.name for file in path.parent.iterdir() if file.is_file()] if path.parent.is_dir() else []
        hint = did_you_mean(path.name, beside, "expected a CSV or TSV file", most=1)
        raise DataError(f"`labels` {path} does not exist; {hint}") from error
    except OSError as error:
        raise DataError(f"`labels` {path} cannot be read ({error.strerror}); change its permissions") from error
    if content.startswith(_WORKBOOKS):
        raise DataError(f"`labels` {path} is an Excel or OpenDocument workbook; save it as CSV")
    return content


def _decode(content: bytes, name: str) -> str:
    try:
        if content.startswith(_UTF16):
            return content.decode("utf-16")
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if b"\0" in content:
            raise DataError(f"{name} is not a text file; expected CSV or TSV") from error
        line = content.count(b"\n", 0, error.start) + 1
    if is_main_process():
        _log.warning("%s is not UTF-8 (line %d); read as Windows-1252 (Latin-1)", name, line)
    try:
        return content.decode("cp1252")
    except UnicodeDecodeError:  # five bytes have no character
        return content.decode("latin-1")


def _check_header(columns: list[str], name: str) -> list[str]:
    suffixes = image_suffixes()
    if image := next((column for column in columns if suffix_of(column) in suffixes), None):
        raise DataError(
            f"the first line of {name} names an image, {image}, instead of columns; add a line such as path,label"
        )
    repeated = [column for column, count in Counter(filter(None, columns)).items() if count > 1]
    if repeated:
        raise DataError(f"{name} has several columns called {repeated[0]!r}; rename all but one")
    return columns


def _fit(row: list[str], count: int, line: int, name: str) -> list[str]:
    if len(row) < count or any(row[count:]):
        advice = "complete or remove it" if len(row) < count else "put a cell that holds a separator into double quotes"
        raise DataError(f"line {line} of {name} has {len(row)} cells, but there are {count} columns; {advice}")
    return row


def resolve_labels(labels: str) -> Path:
    """Return the absolute path of the value of `labels`."""
    return Path(os.path.abspath(Path(labels).expanduser()))
