"""What a checkpoint holds: copy it to memory, and load it into a run with any number of processes, sharded or not."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from ssia_zoo.data.randomness import derive_seed
from ssia_zoo.training.state_files import copy_to_host, read_state, write_state

_FULL = StateDictOptions(full_state_dict=True)
_WEIGHTS = "model.safetensors"


class Stateful(Protocol):
    """Has a state of tensors and of what JSON has."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Load what `state_dict` returned."""


@dataclass
class Snapshot:
    """A copy of all that a checkpoint holds, in the CPU's memory."""

    weights: dict[str, Tensor]
    states: dict[str, dict[str, Any]]
    """by the name of their files"""

    def write(self, folder: Path) -> None:
        """Write the files: safetensors, and JSON beside them."""
        save_file({name: tensor.contiguous() for name, tensor in self.weights.items()}, folder / _WEIGHTS)
        for name, state in self.states.items():
            write_state(folder, name, state)


class Checkpointed:
    """The parts of a run that a checkpoint holds: equal in all processes, or sharded by FSDP2.

    Weights and the optimizer's state are kept unsharded under the names of the parameters, so that any number of
    processes can load them, with DDP or FSDP2.

    Args:
        accelerator: Has prepared the module and the optimizer.
        module: Student and heads.
        optimizer: Of the module.
        parts: Other parts by name.
    """

    def __init__(
        self, accelerator: Accelerator, module: nn.Module, optimizer: Any, parts: Mapping[str, Stateful]
    ) -> None:
        self.accelerator = accelerator
        self.module = accelerator.unwrap_model(module, keep_torch_compile=False)
        self.optimizer = optimizer
        self.parts = dict(parts)
        if accelerator.scaler is not None:
            self.parts["scaler"] = accelerator.scaler

    def snapshot(self) -> Snapshot | None:
        """Copy all parts; every process must call this. Return the copy in the main process, None in others."""
        keep = self.accelerator.is_main_process
        randoms = gather_object([_random_state(self.accelerator.device)])
        weights = copy_to_host(self.module.state_dict(), keep=keep)
        optimizer = copy_to_host(self._named_optimizer_state(), keep=keep)
        if not keep:
            return None
        parts = {name: copy_to_host(part.state_dict()) for name, part in self.parts.items()}
        return Snapshot(weights, {"optimizer": optimizer, "parts": parts, "random": {"processes": randoms}})

    def load(self, checkpoint: Path) -> None:
        """Load what a snapshot wrote; every process must call this.

        With another number of processes, each gets new random numbers (for dropout), derived from the seed and step.
        """
        self._load_optimizer_state(read_state(checkpoint, "optimizer"))  # first, as it may change the weights
        set_model_state_dict(self.module, dict(load_file(checkpoint / _WEIGHTS)), options=_FULL)
        states = read_state(checkpoint, "parts")
        if states.keys() != self.parts.keys():
            raise ValueError(f"it holds {', '.join(sorted(states))}; expected {', '.join(sorted(self.parts))}")
        for name, part in self.parts.items():
            part.load_state_dict(states[name])

    def load_random_state(self, checkpoint: Path, seed: int, step: int) -> None:
        """Continue the random numbers; with another number of processes, derive new ones from seed and step."""
        states = read_state(checkpoint, "random")["processes"]
        index = self.accelerator.process_index
        if len(states) == self.accelerator.num_processes:
            _set_random_state(states[index], self.accelerator.device)
        else:
            set_seed(derive_seed(seed, step, index) >> 32)

    def _named_optimizer_state(self) -> dict[str, Any]:
        """Return the optimizer's state, with names of parameters for their numbers, and what else it keeps."""
        state = self.optimizer.state_dict()
        names = list(self._names())
        groups = [{**group, "params": [names[number] for number in group["params"]]} for group in state["param_groups"]]
        named = {names[number]: value for number, value in state["state"].items()}
        return {**state, "state": named, "param_groups": groups}  # kron's also has the state of its random numbers

    def _names(self) -> Iterator[str]:
        """Yield the names of the optimizer's parameters, in the order of their numbers."""
        names = {id(parameter): name for name, parameter in self.module.named_parameters()}
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                yield names[id(parameter)]

    def _load_optimizer_state(self, state: dict[str, Any]) -> None:
        """Load the optimizer's state, sharded as its parameters; `lr_scale` stays, as it follows from this run's rate.

        Under FSDP2 by torch.distributed.checkpoint, which fills the state by a step first: that changes parameters with
        some optimizers (MADGRAD). Without sharding, or without a state to shard (SGD without momentum), the optimizer
        itself loads.
        """
        scales = [group.get("lr_scale") for group in self.optimizer.param_groups]
        if self.accelerator.is_fsdp2 and state["state"]:
            common = {key: state[key] for key in ("state", "param_groups")}
            set_optimizer_state_dict(self.module, self.optimizer.optimizer, common, options=_FULL)
        else:
            self._load_unsharded(state)
        for group, scale in zip(self.optimizer.param_groups, scales, strict=True):
            if scale is not None:
                group["lr_scale"] = scale

    def _load_unsharded(self, state: dict[str, Any]) -> None:
        numbers = {name: number for number, name in enumerate(self._names())}
        groups = [{**group, "params": [numbers[name] for name in group["params"]]} for group in state["param_groups"]]
        if [group["params"] for group in groups] != [g["params"] for g in self.optimizer.state_dict()["param_groups"]]:
            raise ValueError("its optimizer has other groups of parameters")
        numbered = {numbers[name]: value for name, value in state["state"].items()}
        self.optimizer.load_state_dict({**state, "state": numbered, "param_groups": groups})


def _random_state(device: torch.device) -> dict[str, Any]:
    """Return the states of the global random number generators of this process."""
    numpy: Any = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": (numpy[0], torch.from_numpy(numpy[1].astype(np.int64)), *numpy[2:]),
        "torch": torch.get_rng_state(),
    }
    return state | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def _set_random_state(state: dict[str, Any], device: torch.device) -> None:
    name, keys, *rest = state["numpy"]
    random.setstate(state["python"])
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
