"""Freed memory stays in the process of a command, and only there."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from ssia_zoo.allocator import keep_freed_memory
from ssia_zoo.training import train
from tests.helpers.runs import small_run

COUNT = """
import resource

def page_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        bytearray(b"1") * (64 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

from ssia_zoo.cli.main import main
imported = page_faults()
main(["--version"])
page_faults()
print(imported, page_faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc")
def test_a_command_uses_freed_blocks_again_and_an_import_changes_nothing() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run([sys.executable, "-c", COUNT], env=environment, capture_output=True, text=True, check=True)
    imported, command = map(int, done.stdout.splitlines()[-1].split())
    assert imported > 1000
    assert command < 100


def test_so_does_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setitem(train.__globals__, "keep_freed_memory", lambda: calls.append(1))
    small_run(tmp_path / "run", max_steps=1)
    assert calls == [1]


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
