"""What benchmarks/growth.py measures in other processes, and what it projects."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.scripts import BENCHMARKS, load_script

growth, report, startup = (load_script(name) for name in ("growth", "growth_report", "startup"))


def test_further_images_are_links_in_the_same_split_and_class(tmp_path: Path) -> None:
    startup.make_folder(tmp_path, images=450, different=200)
    files = sorted(tmp_path.rglob("*.bmp"))
    assert len(files) == 450
    assert len({file.stat().st_ino for file in files}) == 200
    linked = [file for file in files if int(file.stem) == 205 or int(file.stem) == 5]
    assert len({file.parent for file in linked}) == len({file.stat().st_ino for file in linked}) == 1


def test_each_process_has_its_rank() -> None:
    found = growth.in_processes(3, _rank, "given")
    assert [row["rank"] for row in found] == [0, 1, 2]
    assert len({row["process"] for row in found} | {os.getpid()}) == 4


def _rank(rank: int, given: str) -> dict[str, Any]:
    assert given == "given"
    return {"rank": rank, "process": os.getpid()}


MEASURE = """
import json, growth
settings = growth.Settings(processes=(1, 2), arch="test_resnet", image_size=32, batch_size=2, steps=1)
print(json.dumps(growth.processes(settings)))
"""


def test_gradients_of_two_processes_are_those_of_one() -> None:
    # In an interpreter of its own: after other tests, autograd may have threads, with which it cannot be forked.
    done = subprocess.run([sys.executable, "-c", MEASURE], cwd=BENCHMARKS, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])
    sizes = {(row["processes"], row["method"]): row["megabytes"] for row in rows}
    assert sizes[1, "vanilla"] == sizes[2, "vanilla"] < sizes[1, "ssia"] == sizes[2, "ssia"]


def test_the_projection_extends_the_last_two_sizes_and_counts_the_gradients() -> None:
    rows = [{"images": n, "identity": 1 + n / 1000, "peak_mb": 5 + n / 100} for n in (1000, 2000)]
    target = report.Target(arch="test_resnet", images=1_000_000, classes=10, gpus=2, batch_size=8, bandwidth=1e6)
    table = "\n".join(report.projection_table({"images": {"rows": rows}}, target))
    assert "1000 s of CPU" in table
    assert "10.0 GB a process" in table
    loss = report.SSIATask(report.timm.create_model("test_resnet", num_classes=10)).trainable_module
    parameters = sum(parameter.numel() for parameter in loss.parameters())
    assert f"| {4 * parameters / 1000:.0f} ms, " in table  # 2 (N - 1) / N is 1, at 1 MB/s
