"""The command `ssia-zoo export`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ssia_zoo.cli.main import main
from ssia_zoo.export.exporter import TARGETS
from tests.helpers.commands import WEIGHT, Captured, failed_in_one_line
from tests.helpers.runs import ROOT


def test_export_writes_the_file(tmp_path: Path, capsys: Captured) -> None:
    assert main(["export", "nonesuch", WEIGHT, "--out", str(tmp_path / "x")]) == 1
    assert "nonesuch" in failed_in_one_line(capsys)
    assert main(["export", "torch-export", "test_vit_ssia", "--out", str(tmp_path / "x.pt2")]) == 1
    assert "test_vit_ssia" in failed_in_one_line(capsys)
    out = tmp_path / "x.pt2"
    assert main(["export", "torch-export", WEIGHT, "--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    assert out.is_file()


def test_help_shows_an_example_for_each_target() -> None:
    command = [sys.executable, str(ROOT / "export" / "to_onnx.py"), "--help"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    for target in TARGETS:
        assert f"ssia-zoo export {target} " in done.stdout
