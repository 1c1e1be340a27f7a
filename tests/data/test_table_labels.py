"""Find the labels in a spreadsheet: one column, several labels in a cell, columns of 0 and 1."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from ssia_zoo.data.spreadsheet import Spreadsheet, read_spreadsheet
from ssia_zoo.data.table_labels import RowLabels, find_labels
from ssia_zoo.errors import DataError


def read(tmp_path: Path, text: str) -> Spreadsheet:
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8")
    return read_spreadsheet(tmp_path / "labels.csv")


def find(tmp_path: Path, text: str, given: str | None = None, separator: str | None = None) -> RowLabels:
    table = read(tmp_path, text)
    return find_labels(table, table.columns[1:], given, separator)


def error(tmp_path: Path, text: str, given: str | None = None) -> str:
    with pytest.raises(DataError) as caught:
        find(tmp_path, text, given)
    return str(caught.value)


@pytest.mark.parametrize("column", ["label", "Class", "breed"])
def test_names_are_sorted_and_the_column_is_found(tmp_path: Path, column: str) -> None:
    found = find(tmp_path, f"path,{column}\na.png,dog\nb.png,cat\n")
    assert (found.column, found.names, found.numbers, found.several) == (column, ["cat", "dog"], [1, 0], False)


def test_a_coarse_column_beside_the_fine_one_is_chosen_by_name(tmp_path: Path) -> None:
    text = "path,label,coarse\na.png,dog,pet\nb.png,cow,farm\n"
    assert find(tmp_path, text).names == ["cow", "dog"]
    assert find(tmp_path, text, "coarse").names == ["farm", "pet"]
    wrong = "labels.csv has no column 'corse' (`label_column`), but path, label, coarse; did you mean coarse?"
    assert error(tmp_path, text, "corse") == wrong
    several = error(tmp_path, text.replace("label", "fine"))
    assert several == "labels.csv has no column called label; set `label_column` to one of: fine, coarse"
    assert "beside the image paths; add one of labels" in error(tmp_path, "path\na.png\n")


def test_numbers_are_sorted_by_value(tmp_path: Path) -> None:
    found = find(tmp_path, "path,label\na.png,10\nb.png,9\nc.png,0\n")
    assert found.names == ["0", "9", "10"]


def test_accents_have_one_form_as_in_folders(tmp_path: Path) -> None:
    assert find(tmp_path, "path,label\na.png,cre\u0300me\nb.png,cr\u00e8me\n").names == ["cr\u00e8me"]


def test_an_empty_label_is_an_error_with_its_lines(tmp_path: Path) -> None:
    message = error(tmp_path, "path,label\na.png,\nb.png,x\nc.png, \n")
    assert message == "2 rows of labels.csv have no label (lines 2, 4); label or remove them"


def test_classes_that_differ_only_in_case_give_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    find(tmp_path, "path,label\na.png,Cat\nb.png,cat\nc.png,dog\n")
    assert "labels.csv: classes that differ only in case: Cat, cat" in caplog.text


@pytest.mark.parametrize("separator", [";", "|"])
def test_several_labels_in_a_cell_are_found(tmp_path: Path, separator: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    text = f"path,label\na.png,dog {separator} cat\nb.png,cow\nc.png,\n"
    found = find(tmp_path, text)
    assert (found.names, found.numbers, found.several) == (["cat", "cow", "dog"], [[0, 2], [1], []], True)
    assert f"several labels an image, separated by '{separator}' in 1 of 3 rows" in caplog.text
    assert "1 images are of none of the classes (line 4)" in caplog.text
    assert find(tmp_path, text.replace("c.png,\n", ""), separator="").names == ["cow", f"dog {separator} cat"]


def test_a_given_separator_makes_lists_of_all_cells(tmp_path: Path) -> None:
    found = find(tmp_path, 'path,label\na.png,"dog,cat"\nb.png,cow\n', separator=",")
    assert (found.names, found.numbers, found.several) == (["cat", "cow", "dog"], [[0, 2], [1]], True)
    assert find(tmp_path, "path,label\na.png,dog\nb.png,cow\n", separator=";").numbers == [[1], [0]]


def test_columns_of_0_and_1_are_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    text = "path,cat,width,dog\na.png,1,10,1.0\nb.png,0,20,0.0\n"
    found = find(tmp_path, text)
    assert (found.column, found.names, found.numbers, found.several) == ("labels", ["cat", "dog"], [[0, 1], []], True)
    assert "the classes are 2 columns of 0 and 1: cat, dog; not used: width" in caplog.text
    assert find(tmp_path, text, "dog,cat").names == ["dog", "cat"]
    assert error(tmp_path, text, "dog,width").startswith("the column 'width' of labels.csv holds '10' (lines 2, 3); ")


def test_columns_with_one_1_in_each_row_are_single_labels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    found = find(tmp_path, "path,cat,dog\na.png,1,0\nb.png,0,1\n")
    assert (found.numbers, found.several) == ([0, 1], False)
    assert "labels.csv: one label an image, as each row has exactly one 1" in caplog.text
