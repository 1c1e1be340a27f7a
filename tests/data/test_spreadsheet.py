"""Read files of labels in the separators and encodings that spreadsheet programs write."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssia_zoo.data.spreadsheet import read_spreadsheet
from ssia_zoo.errors import DataError

TEXT = 'path,label\na.png,crème\n"b, c.png","x;y"\n'


def write(tmp_path: Path, content: str | bytes, name: str = "labels.csv") -> Path:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return tmp_path / name


def error(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_spreadsheet(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        TEXT.encode("utf-8-sig"),
        TEXT.encode("utf-16"),
        TEXT.encode("latin-1"),
        TEXT.replace("\n", "\r\n").encode(),
        TEXT.replace(",", ", ").replace('"b,  c', '"b, c').encode(),
        ("\n" + TEXT + "\n,\n").encode(),
        ("," + TEXT.replace("a.png", "0,a.png").replace('"b', '1,"b')).encode(),  # pandas' index
        'path;label\na.png;crème\nb, c.png;"x;y"\n'.encode(),
        "path\tlabel\na.png\tcrème\nb, c.png\tx;y\n".encode(),
    ],
)
def test_separators_and_encodings_give_the_same_cells(tmp_path: Path, content: bytes) -> None:
    found = read_spreadsheet(write(tmp_path, content))
    assert found.cells == {"path": ["a.png", "b, c.png"], "label": ["crème", "x;y"]}


def test_an_encoding_that_is_not_unicode_gives_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read_spreadsheet(write(tmp_path, TEXT.encode("latin-1")))
    assert "labels.csv is not UTF-8 (line 2); read as Windows-1252 (Latin-1)" in caplog.text
    assert read_spreadsheet(write(tmp_path, b"path,label\na.png,\x81\n")).cells["label"] == ["\x81"]


def test_lines_are_counted_with_empty_ones(tmp_path: Path) -> None:
    found = read_spreadsheet(write(tmp_path, "path,label\n\na.png,x\n"))
    assert found.lines == [3]
    assert found.describe_lines([0]) == "line 3"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "labels.csv is empty; expected a line of column names"),
        ("path,label\n", "has column names, but no line below them"),
        ("a.png,cat\n", "the first line of labels.csv names an image, a.png, instead of columns; add a line such as"),
        ("path,label,label\na.png,x,y\n", "several columns called 'label'; rename all but one"),
        ("path,label\na.png,x,y\n", "line 2 of labels.csv has 3 cells, but there are 2 columns; put a cell that"),
        ("path,label\na.png\n", "line 2 of labels.csv has 1 cells, but there are 2 columns; complete or remove it"),
        (b"PK\x03\x04", "is an Excel or OpenDocument workbook; save it as CSV"),
        (b"\0\xff\x81", "labels.csv is not a text file; expected CSV or TSV"),
        ("path,label\n" + "x" * 200_000 + ",y\n", "line 2 of labels.csv cannot be read (field larger than"),
    ],
)
def test_a_file_that_cannot_be_used_is_a_one_line_error(tmp_path: Path, content: str | bytes, message: str) -> None:
    assert message in error(write(tmp_path, content))


def test_a_misspelt_name_gets_the_nearest(tmp_path: Path) -> None:
    write(tmp_path, TEXT)
    assert error(tmp_path / "label.csv").endswith("label.csv does not exist; did you mean labels.csv?")
    assert "is a folder; expected a CSV or TSV file" in error(tmp_path)
