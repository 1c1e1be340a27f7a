"""The Accelerator that the settings ask for, and what this machine cannot do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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


@pytest.mark.covers("ddp_static_graph", "ddp_compression")
def test_options_of_ddp_reach_the_accelerator() -> None:
    plain = build_accelerator(TrainConfig()).ddp_handler
    assert (plain.static_graph, plain.comm_hook.value, plain.gradient_as_bucket_view) == (False, "no", True)
    AcceleratorState._reset_state(reset_partial_state=True)
    chosen = build_accelerator(TrainConfig(ddp_static_graph=True, ddp_compression="bf16")).ddp_handler
    assert (chosen.static_graph, chosen.comm_hook.value) == (True, "bf16")


def test_a_static_graph_with_accumulation_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^`ddp_static_graph` does not work with `accumulation_steps` 2[^\n]*$"):
        small_run(tmp_path / "run", ddp_static_graph=True, accumulation_steps=2)


@pytest.mark.covers("tf32")
@pytest.mark.parametrize("tf32", [True, False])
def test_a_run_trains_with_tf32_if_asked_and_leaves_torchs_options_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tf32: bool
) -> None:
    def options() -> tuple[bool, bool, bool]:
        cudnn = torch.backends.cudnn
        return cudnn.benchmark, cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32

    seen = set()
    backward = torch.Tensor.backward

    def watched(*args: Any, **kwargs: Any) -> None:
        seen.add(options())
        backward(*args, **kwargs)

    before = options()
    monkeypatch.setattr(torch.Tensor, "backward", watched)
    small_run(tmp_path / "run", tf32=tf32, max_steps=1)
    assert seen == {(True, tf32, tf32)}
    assert options() == before
