"""The command `ssia-zoo export`."""

from __future__ import annotations

from pathlib import Path

from ssia_zoo.cli.main import main
from tests.helpers.commands import WEIGHT, Captured, failed_in_one_line


def test_export_writes_the_file(tmp_path: Path, capsys: Captured) -> None:
    assert main(["export", "nonesuch", WEIGHT, "--out", str(tmp_path / "x")]) == 1
    assert "nonesuch" in failed_in_one_line(capsys)
    assert main(["export", "torch-export", "test_vit_ssia", "--out", str(tmp_path / "x.pt2")]) == 1
    assert "test_vit_ssia" in failed_in_one_line(capsys)
    out = tmp_path / "x.pt2"
    assert main(["export", "torch-export", WEIGHT, "--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    assert out.is_file()
