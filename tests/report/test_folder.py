"""A report's folder: complete or as it was before, and nothing of others is touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssia_zoo.errors import ConfigError
from ssia_zoo.report.folder import check_folder, replace_report

NAMES = ("a.html", "b.png")


def fill(folder: Path, *names: str) -> None:
    check_folder(folder, NAMES)
    with replace_report(folder, NAMES) as stage:
        for name in names:
            (stage / name).write_text("new")


def stopped(folder: Path) -> None:
    with replace_report(folder, NAMES) as stage:
        (stage / "b.png").write_text("unfinished")
        raise KeyboardInterrupt


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_report_replaces_an_earlier_one(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "report"
    fill(folder, "a.html", "b.png")
    (folder / "a.html").write_text("old")
    fill(folder, "a.html")
    assert content(folder) == {"a.html": "new"}
    assert list(tmp_path.iterdir()) == [tmp_path / "new"]


def test_other_files_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"^`report` is .*, which holds other files, such as mine.txt"):
        fill(tmp_path, "a.html")
    with pytest.raises(ConfigError, match=r"^`report` is .*mine.txt, which is a file"):
        fill(tmp_path / "mine.txt", "a.html")
    with pytest.raises(ConfigError, match=r"^`report` is .*mine.txt/x, but .*mine.txt is a file"):
        fill(tmp_path / "mine.txt" / "x", "a.html")
    assert content(tmp_path) == {"mine.txt": "mine"}


def test_after_an_error_the_folder_is_as_before(tmp_path: Path) -> None:
    fill(tmp_path / "old", "a.html")
    for folder in (tmp_path / "old", tmp_path / "not" / "there"):
        with pytest.raises(KeyboardInterrupt):
            stopped(folder)
    assert content(tmp_path / "old") == {"a.html": "new"}
    assert list(tmp_path.iterdir()) == [tmp_path / "old"]


def test_what_a_killed_process_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".unfinished").mkdir()
    (tmp_path / ".unfinished" / "b.png").write_text("old")
    fill(tmp_path, "a.html")
    assert content(tmp_path) == {"a.html": "new"}


@pytest.mark.parametrize("name", ["thesis.txt", "b.png/thesis.txt"])
def test_an_unfinished_folder_with_other_files_is_not_deleted(tmp_path: Path, name: str) -> None:
    mine = tmp_path / ".unfinished" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(ConfigError, match=r"holds other files, such as \.unfinished"):
        fill(tmp_path, "a.html")
    with pytest.raises(ConfigError, match="cannot be written"), replace_report(tmp_path, NAMES):
        pytest.fail("the folder was filled after the check")
    assert mine.read_text() == "mine"


def test_a_link_to_an_unfinished_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.png").write_text("mine")
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / ".unfinished").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"holds other files, such as \.unfinished"):
        fill(tmp_path / "report", "a.html")
    assert content(tmp_path / "elsewhere") == {"b.png": "mine"}
