"""timm's own model tests pass on registered names: a sample here, all of them with benchmarks/conformance.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow  # it downloads timm's source distribution
def test_timms_own_tests_pass_on_registered_names(tmp_path: Path) -> None:
    wanted = f"timm=={timm.__version__}"
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "timm", wanted]
    if subprocess.run(download, cwd=tmp_path, capture_output=True, check=False).returncode:
        pytest.skip("timm's source distribution, which holds its tests, cannot be downloaded here")
    results = tmp_path / "results.jsonl"
    sample = ("mambaout",)
    command = [sys.executable, str(ROOT / "benchmarks" / "conformance.py"), "--work", str(tmp_path)]
    command += ["--results", str(results), "--families", *sample]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    assert [row["family"] for row in rows] == list(sample)
    assert all(row["passed"] >= 8 * len(row["archs"]) and not row["failed"] for row in rows)
