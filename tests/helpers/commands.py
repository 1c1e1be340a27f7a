"""Run `ssia-zoo` in tests, and check how it fails."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

WEIGHT = "mobilenetv3_small_050_ssia"
FULL = f"{WEIGHT}.digits_r32"

Captured = pytest.CaptureFixture[str]


@contextmanager
def logging_stays() -> Iterator[None]:
    """Undo what a command sets up of logging, which ends with its process, where it runs in this one."""
    level, factory = logging.getLogger("ssia_zoo").level, logging.getLogRecordFactory()
    propagate = logging.getLogger("huggingface_hub").propagate
    try:
        yield
    finally:
        logging.getLogger("ssia_zoo").setLevel(level)
        logging.setLogRecordFactory(factory)
        logging.getLogger("huggingface_hub").propagate = propagate


def start(*words: str, **options: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "ssia_zoo.cli", *words]
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )  # type: ignore[call-overload]


def failed_in_one_line(capsys: Captured) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err
