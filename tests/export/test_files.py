from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssia_zoo.errors import ConfigError
from ssia_zoo.export.files import MANIFEST_FORMAT, commit_files, staging_dir

NAMES = ["m.xml", "m.bin", "m.xml.json"]


def commit(folder: Path, text: str) -> None:
    """Write an export of three files to m.xml, whose model and weights are `text`."""
    with staging_dir(folder / "m.xml") as staging:
        for name in NAMES[:2]:
            (staging / name).write_text(text)
        manifest = {"format": MANIFEST_FORMAT, "files": {name: {} for name in NAMES[:2]}}
        (staging / NAMES[2]).write_text(json.dumps(manifest))
        commit_files(staging, folder / "m.xml")


@pytest.mark.parametrize("taken", NAMES)
def test_a_folder_of_the_same_name_is_an_error_before_any_file_is_replaced(taken: str, tmp_path: Path) -> None:
    commit(tmp_path, "old")
    (tmp_path / taken).unlink()
    (tmp_path / taken).mkdir()
    kept = {name: (tmp_path / name).read_text() for name in NAMES if name != taken}
    with pytest.raises(ConfigError, match=f"{taken} is a folder|is not of an earlier export"):
        commit(tmp_path, "new")
    assert {name: (tmp_path / name).read_text() for name in kept} == kept


@pytest.mark.parametrize("mine", NAMES[1:])
@pytest.mark.parametrize("text", ["mine", "[]", '{"format": "other", "files": {}}'])
def test_a_file_beside_the_target_that_is_not_of_an_earlier_export_is_not_replaced(
    mine: str, text: str, tmp_path: Path
) -> None:
    (tmp_path / mine).write_text(text)
    with pytest.raises(ConfigError, match=f"{mine}; a file of that name exists"):
        commit(tmp_path, "new")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(mine, text)]


def test_an_export_replaces_an_earlier_one_and_a_target_without_manifest(tmp_path: Path) -> None:
    (tmp_path / "m.xml").write_text("older")
    commit(tmp_path, "old")
    commit(tmp_path, "new")
    assert [(tmp_path / name).read_text() for name in NAMES[:2]] == ["new", "new"]
