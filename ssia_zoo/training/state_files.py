"""Write and read nested state as JSON and safetensors, which cannot run code when they are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from ssia_zoo.errors import TrainingError

_TENSOR, _TUPLE, _DTYPE = "__tensor__", "__tuple__", "__dtype__"


def copy_to_host(state: Any, *, keep: bool = True) -> Any:
    """Copy a nested state to the CPU, so that training does not change it while it is written.

    Sharded tensors are gathered, one at a time; every process must call this with the same structure.

    Args:
        state: Dicts, lists and tuples of tensors and of what JSON has.
        keep: Whether this process needs the copy; else None is returned.
    """
    copied = _copy(state, keep)
    if keep and torch.cuda.is_available():
        torch.cuda.synchronize()  # copies into pinned memory do not wait
    return copied


def _copy(state: Any, keep: bool) -> Any:
    if isinstance(state, Tensor):
        source = state.detach()
        source = source.full_tensor() if isinstance(source, DTensor) else source
        return _copy_tensor(source) if keep else None
    if isinstance(state, dict):
        parts = {name: _copy(value, keep) for name, value in state.items()}
        return parts if keep else None
    if isinstance(state, list | tuple):
        values = [_copy(value, keep) for value in state]
        return type(state)(values) if keep else None
    return state if keep else None


def _copy_tensor(source: Tensor) -> Tensor:
    pinned = source.device.type == "cuda"
    target = torch.empty_like(source, device="cpu", pin_memory=pinned)
    return target.copy_(source, non_blocking=pinned)


def write_state(folder: Path, name: str, state: dict[str, Any]) -> None:
    """Write a state to `name`.safetensors and `name`.json, which holds its structure and all but its tensors.

    Args:
        folder: An existing folder.
        name: Of the files.
        state: Dicts with names as keys, lists and tuples of tensors and of what JSON has.

    Raises:
        TypeError: The state holds something else.
    """
    tensors: dict[str, Tensor] = {}
    structure = _pack(state, name, tensors)
    (folder / f"{name}.json").write_text(json.dumps(structure), encoding="utf-8")
    save_file(tensors, folder / f"{name}.safetensors")


def read_state(folder: Path, name: str) -> dict[str, Any]:
    """Read what `write_state` wrote; tensors are on the CPU, with the strides that they had.

    Raises:
        TrainingError: The files are not such ones.
    """
    tensors = load_file(folder / f"{name}.safetensors")
    structure = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    state = _unpack(structure, tensors)
    if not isinstance(state, dict):
        raise TrainingError(f"{name}.json holds no state")
    return state


def _pack(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """Return what JSON can hold of a value; move its tensors into `tensors`."""
    if isinstance(value, Tensor):
        tensors[place] = value.contiguous()
        return {_TENSOR: place, "stride": list(value.stride())}
    if isinstance(value, dict):
        if strange := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"{place} has the key {strange[0]!r}; expected names")
        return {key: _pack(part, f"{place}/{key}", tensors) for key, part in value.items()}
    if isinstance(value, list | tuple):
        parts = [_pack(part, f"{place}/{index}", tensors) for index, part in enumerate(value)]
        return {_TUPLE: parts} if isinstance(value, tuple) else parts
    if isinstance(value, torch.dtype):
        return {_DTYPE: str(value).removeprefix("torch.")}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{place} is a {type(value).__name__}, which a checkpoint cannot hold")


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(part, tensors) for part in value]
    if not isinstance(value, dict):
        return value
    if _TENSOR in value:
        tensor = tensors[value[_TENSOR]]
        stride = tuple(value["stride"])
        if stride == tensor.stride():
            return tensor
        return torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype).copy_(tensor)
    if _DTYPE in value:
        dtype = getattr(torch, value[_DTYPE])
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"{value[_DTYPE]} is no type of numbers")
        return dtype
    if _TUPLE in value:
        return tuple(_unpack(part, tensors) for part in value[_TUPLE])
    return {key: _unpack(part, tensors) for key, part in value.items()}
