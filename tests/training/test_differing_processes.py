"""Processes of one run that differ: in settings, in their copy of the data, or in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ssia_zoo.task import SSIATask
from ssia_zoo.training import main
from tests.helpers.forked import Run, end_all


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    yield
    end_all()


def another_lr(arguments: list[str]) -> int:
    return main([*arguments, *(["--lr", "0.5"] if os.environ["RANK"] == "1" else [])])


def another_copy(arguments: list[str]) -> int:
    place = arguments.index("--dataset") + 1
    arguments[place] = f"{arguments[place]}{os.environ['RANK']}"
    return main(arguments)


def without_memory(arguments: list[str]) -> int:
    """Let the second process run out of memory once, in its third step, as a GPU with another user does."""
    forward, steps = SSIATask.forward, 0

    def out_of_memory(*inputs: Any, **more: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 3 and os.environ["RANK"] == "1":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(*inputs, **more)

    SSIATask.forward = out_of_memory  # type: ignore[method-assign]
    return main(arguments)


def errors(run: Run) -> list[str]:
    text = run.output()
    assert "Traceback" not in text, text
    return [line for line in text.splitlines() if line.startswith("error:")]


def test_processes_with_other_settings_are_refused(tmp_path: Path) -> None:
    run = Run(tmp_path / "log", 2, target=another_lr, output_dir=tmp_path / "run", lr=0.1)
    assert run.wait(120) == [1, 1], run.output()
    (line,) = errors(run)
    assert "process 1 has other settings or data than process 0: lr (0.1 -> 0.5); start" in line


@pytest.mark.parametrize(("images", "statuses"), [(12, [1, 1]), (16, [0, 0])])
def test_processes_with_other_images_are_refused_and_equal_copies_are_not(
    images: int, statuses: list[int], tmp_path: Path, datasets_cache: None
) -> None:
    for copy, number in (("copy0", 16), ("copy1", images)):
        for place in range(number):
            folder = tmp_path / copy / "ab"[place % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (place, 0, 0)).save(folder / f"{place}.png")
    where = {"dataset": tmp_path / "copy", "output_dir": tmp_path / "run"}
    run = Run(tmp_path / "log", 2, target=another_copy, max_steps=2, batch_size=4, holdout=0.25, **where)
    assert run.wait(120) == statuses, run.output()
    expected = "process 1 has other settings or data than process 0: training images"
    assert [expected in line for line in errors(run)] == [True] * statuses[0]


def test_a_process_that_runs_out_of_memory_ends_all_although_they_share_a_memory_of_predictions(tmp_path: Path) -> None:
    settings = {"ssia.supervisor": "memory", "max_steps": 6, "output_dir": tmp_path / "run"}
    run = Run(tmp_path / "log", 2, target=without_memory, **settings)
    assert run.wait(120) == [1, 1], run.output()
    assert any("error: out of memory" in line and "--batch-size" in line for line in errors(run)), run.output()
