"""Nested state comes back as it was from JSON and safetensors, with any timm optimizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from timm.optim import create_optimizer_v2
from torch import nn

from ssia_zoo.training.snapshot import Checkpointed
from ssia_zoo.training.state_files import copy_to_host, read_state, write_state


def test_a_state_comes_back_with_its_types_values_and_strides(tmp_path: Path) -> None:
    channels_last = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    state = {
        "numbers": [1, 0.1, float("inf"), True, None, "text"],
        "betas": (0.9, (0.99, torch.tensor(3))),
        "tensors": {
            "half": torch.randn(3).half(),
            "b": torch.tensor([True]),
            "none": torch.zeros(0),
            "c": channels_last,
        },
        "dtype": torch.bfloat16,
    }
    write_state(tmp_path, "state", state)
    read = read_state(tmp_path, "state")
    assert read["numbers"] == state["numbers"]
    assert isinstance(read["betas"], tuple)
    assert read["betas"][1] == (0.99, torch.tensor(3))
    assert read["dtype"] is torch.bfloat16
    for name, tensor in state["tensors"].items():
        assert torch.equal(read["tensors"][name], tensor)
        assert read["tensors"][name].dtype == tensor.dtype
    assert read["tensors"]["c"].stride() == channels_last.stride()


@pytest.mark.parametrize("value", [{1: 2}, {"x": {3}}, {"x": object()}])
def test_what_the_files_cannot_hold_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(TypeError, match=r"^state"):
        write_state(tmp_path, "state", value)


def test_a_copy_does_not_change_with_its_source() -> None:
    source = {"x": [torch.zeros(2)]}
    copy = copy_to_host(source)
    source["x"][0] += 1
    assert copy["x"][0].tolist() == [0, 0]
    assert copy_to_host(source, keep=False) is None


KRON = pytest.param("kron", marks=pytest.mark.slow)


# Those with other state than tensors, or which torch.distributed.checkpoint does not restore (madgrad).
@pytest.mark.parametrize("name", ["adamw", "madgrad", "lamb", KRON, "nadamuon", "laprop", "lookahead_momentum"])
def test_an_optimizer_goes_on_with_the_same_bits(tmp_path: Path, name: str) -> None:
    accelerator = Accelerator(cpu=True)

    def build() -> Checkpointed:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 5))
        return Checkpointed(accelerator, module, create_optimizer_v2(module, name, 1e-3, 0.05), {})

    def train(run: Checkpointed, seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        for _ in range(40 if name == "kron" else 2):  # kron updates its preconditioner at random
            run.optimizer.zero_grad()
            run.module(torch.randn(4, 3, 8, 8)).square().mean().backward()
            run.optimizer.step()
        return run.module.state_dict()

    run, other = build(), build()
    train(run, 1)
    snapshot = run.snapshot()
    assert snapshot is not None
    snapshot.write(tmp_path)
    expected = train(run, 2)
    other.load(tmp_path)
    assert all(torch.equal(tensor, expected[key]) for key, tensor in train(other, 2).items())
