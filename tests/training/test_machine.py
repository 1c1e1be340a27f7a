"""The Accelerator that the settings ask for, and what this machine cannot do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from accelerate.utils import is_compiled_module

from ssia_zoo.errors import ConfigError
from ssia_zoo.training.config import TrainConfig
from ssia_zoo.training.launcher import resolve_launcher
from ssia_zoo.training.machine import build_accelerator
from tests.helpers.runs import small_run


@pytest.mark.covers("compile")
def test_what_is_prepared_is_compiled_if_asked_for() -> None:
    for compiled in (True, False):
        accelerator = build_accelerator(resolve_launcher(TrainConfig(compile=compiled)))
        assert is_compiled_module(accelerator.prepare(torch.nn.Linear(1, 1))) == compiled
        accelerator.free_memory()
        AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.covers("compile_backend", "compile_mode")
def test_the_compiler_and_its_mode_reach_the_accelerator() -> None:
    config = TrainConfig(compile=True, compile_backend="eager", compile_mode="reduce-overhead")
    plugin = build_accelerator(config).state.dynamo_plugin
    assert (plugin.backend.value, plugin.mode) == ("EAGER", "reduce-overhead")


@pytest.mark.covers("sync_bn")
def test_sync_bn_without_gpus_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^`sync_bn` needs GPUs[^\n]*$"):
        small_run(tmp_path / "run", sync_bn=True)
