"""Read and check config.json and model.safetensors from untrusted sources."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from ssia_zoo.errors import WeightError, one_line
from ssia_zoo.timm_names import CROP_MODES, INTERPOLATIONS

CONFIG, WEIGHTS = "config.json", "model.safetensors"

_PICKLES = (".bin", ".pth", ".pt", ".ckpt", ".pkl", ".pickle", ".tar", ".npz", ".h5", ".msgpack")
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

# Far above what any timm model needs; a file that exceeds a limit would only waste memory or time.
_MAX_CONFIG_BYTES = 16 * 2**20
_MAX_HEADER_BYTES = 16 * 2**20
_MAX_ARGUMENT = 100_000
_MAX_MODULES = 10_000
_MAX_ELEMENTS_UNKNOWN = 2**32
_MAX_TEXT = 300  # characters of another library's error

_NOT_ARGUMENTS = ("checkpoint_path", "cache_dir", "features_only", "feature_cfg", "device", "dtype", "scriptable")
"""Keys that model_args must not contain: they select other weights, or another kind of model."""


def pickles_only(what: str, names: Iterable[str]) -> str | None:
    """Return why a model is refused that is offered as pickles only, or None if it is not."""
    names = sorted(names)
    pickles = [name for name in names if name.endswith(_PICKLES)]
    if not pickles or any(name.endswith(".safetensors") for name in names):
        return None
    return (
        f"{what} offers its weights only as {some(pickles)}, but SSIA Zoo loads only {WEIGHTS}, which can be checked "
        "before it is read: ask the owner for one, or convert the file (timm reads such files with weights_only)"
    )


def read_model_config(path: Path) -> dict[str, Any]:
    """Read a config.json in timm's format and check every value that is used later.

    Raises:
        WeightError: If it is missing or not readable, or a value is not valid.
    """
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise WeightError(f"{path} has {path.stat().st_size:,} bytes; expected a few thousand")
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightError(f"{path} is not valid JSON ({one_line(error, _MAX_TEXT)}); write it again") from error
    for key, kind in (("architecture", str), ("num_classes", int), ("pretrained_cfg", dict)):
        if not isinstance(config, dict) or type(config.get(key)) is not kind:
            raise WeightError(f"{path} has no valid {key!r}; expected timm's format of config.json: write it again")
    _check_architecture(path, config["architecture"])
    for field, value, valid, expected in _values(config):
        if value is not None and not valid(value):
            raise WeightError(f"{path}: {field} is {_quoted(value)}, expected {expected}; write it again")
    return dict(config)


def _check_architecture(path: Path, arch: str) -> None:
    if arch.split(".")[0].endswith("_ssia"):
        raise WeightError(
            f"{path} names the architecture {_quoted(arch)}; expected the vanilla architecture: "
            f"write {_quoted(arch.split('.')[0].removesuffix('_ssia'))}"
        )
    if not timm.is_model(arch):
        raise WeightError(
            f"{path} names the architecture {_quoted(arch)}, which timm {timm.__version__} does not know; "
            "timm.list_models() lists what it knows"
        )


def _values(config: dict[str, Any]) -> list[tuple[str, Any, Callable[[Any], bool], str]]:
    """Optional values: name, value, rule, what is expected."""
    cfg, classes = config["pretrained_cfg"], config["num_classes"]
    size = cfg.get("input_size")
    channels = size[0] if isinstance(size, list) and size else 3
    return [
        ("num_classes", classes, lambda v: 0 <= v <= 10_000_000, "a number of classes"),
        ("label_names", config.get("label_names"), lambda v: _are_names(v, classes), f"{classes} names"),
        ("model_args", config.get("model_args"), are_arguments, "arguments of a timm model"),
        ("pretrained_cfg.input_size", size, _is_size, "three positive numbers: channels, height, width"),
        ("pretrained_cfg.mean", cfg.get("mean"), lambda v: _are_numbers(v, channels), "a number per channel"),
        ("pretrained_cfg.std", cfg.get("std"), lambda v: _are_numbers(v, channels, above=0), "a positive one each"),
        ("pretrained_cfg.crop_pct", cfg.get("crop_pct"), lambda v: _are_numbers([v], 1, 0, 1), "a fraction up to 1"),
        ("pretrained_cfg.interpolation", cfg.get("interpolation"), lambda v: v in INTERPOLATIONS, _any(INTERPOLATIONS)),
        ("pretrained_cfg.crop_mode", cfg.get("crop_mode"), lambda v: v in CROP_MODES, _any(CROP_MODES)),
    ]


def _any(words: Sequence[str]) -> str:
    return f"one of {', '.join(words)}"


def _are_names(value: Any, classes: int) -> bool:
    if isinstance(value, dict):  # from index to name, perhaps with gaps
        return all(is_index(key, classes) and isinstance(name, str) for key, name in value.items())
    return isinstance(value, list) and len(value) == classes and all(isinstance(name, str) for name in value)


def _is_size(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(type(v) is int and 1 <= v <= 16_384 for v in value)


def _are_numbers(value: Any, count: int, above: float = -1e6, most: float = 1e6) -> bool:
    if not isinstance(value, list) or len(value) != count:
        return False
    return all(isinstance(v, int | float) and not isinstance(v, bool) and above < v <= most for v in value)


def are_arguments(value: Any) -> bool:
    """Whether `read_model_config` accepts a value as the `model_args` of a config.json."""
    if not isinstance(value, dict) or any(key.startswith("pretrained") or key in _NOT_ARGUMENTS for key in value):
        return False
    waiting = list(value.values())
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict | list):
            waiting += item.values() if isinstance(item, dict) else item
        elif isinstance(item, int | float) and not abs(item) <= _MAX_ARGUMENT:
            return False
    return True


def vanilla_tensors(folder: Path, architecture: str, weights: Path | None) -> dict[str, Tensor]:
    """Return the state dict of the model that timm builds from a folder's config.json, without loading weights.

    Args:
        folder: Holds a config.json that `read_model_config` accepts.
        architecture: Its architecture.
        weights: The weight file; building stops early if the model is far bigger than it.

    Raises:
        WeightError: If timm cannot build it, or it is far bigger than the file.
    """
    limit = 2 * weights.stat().st_size + 2**26 if weights else _MAX_ELEMENTS_UNKNOWN
    # Keep the random state of a training that calls this.
    with torch.random.fork_rng(devices=[]), _limited(folder / CONFIG, limit):
        try:
            model = _build(f"local-dir:{folder}", architecture)
        except WeightError:
            raise
        except Exception as error:  # timm and the models raise every kind
            raise WeightError(
                f"{folder / CONFIG} describes a model that timm {timm.__version__} cannot build "
                f"({one_line(error, _MAX_TEXT)}); correct it or write it again"
            ) from error
    tensors: dict[str, Tensor] = model.state_dict()
    return tensors


def _build(name: str, architecture: str) -> Any:
    """Build a model, on the meta device if its architecture allows it."""
    try:
        return _build_on_meta(name)
    except WeightError:
        raise
    except Exception:  # wrong arguments, or an architecture that cannot be built on the meta device
        try:
            _build_on_meta(architecture)
        except WeightError:  # exceeded the limit, which does not tell the two cases apart
            pass
        except Exception:
            return timm.create_model(name, pretrained=False)
        raise


def _build_on_meta(name: str) -> Any:
    with torch.device("meta"):
        return timm.create_model(name, pretrained=False)


@contextmanager
def _limited(path: Path, limit: int) -> Iterator[None]:
    """Raise WeightError if a model built in this thread exceeds the limit of elements, or of modules."""
    thread = threading.get_ident()
    elements = modules = 0

    def count_tensor(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        nonlocal elements
        if threading.get_ident() == thread and tensor is not None:
            elements += tensor.numel()
            if elements > limit:
                raise WeightError(f"{path} describes a model far bigger than its weights ({elements:,} values)")

    def count_module(module: nn.Module, name: str, child: nn.Module | None) -> None:
        nonlocal modules
        if threading.get_ident() == thread:
            modules += 1
            if modules > _MAX_MODULES:
                raise WeightError(f"{path} describes a model of more than {_MAX_MODULES:,} modules; correct it")

    hooks = (
        register_module_parameter_registration_hook(count_tensor),
        register_module_buffer_registration_hook(count_tensor),
        register_module_module_registration_hook(count_module),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def check_tensors(path: Path, vanilla: dict[str, Tensor], *, float32: bool) -> None:
    """Check that a safetensors file holds exactly the tensors of a model, and finite values.

    Args:
        path: The file.
        vanilla: State dict of the model; its values are not used.
        float32: Whether floating-point tensors must be float32, as published; else any float type is accepted.

    Raises:
        WeightError: If it does not; names the tensor.
    """
    try:
        with path.open("rb") as stream:
            header = int.from_bytes(stream.read(8), "little")
        if header > _MAX_HEADER_BYTES:
            raise WeightError(f"{path} is not a readable safetensors file (header of {header:,} bytes); write it again")
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            if unexpected := names - vanilla.keys():
                raise WeightError(
                    f"{path} holds tensors that the vanilla architecture does not have: {some(unexpected)}; "
                    "training-only heads are never published: save the model without them"
                )
            if missing := vanilla.keys() - names:
                raise WeightError(f"{path} lacks tensors of its architecture: {some(missing)}; save the complete model")
            for name, expected in vanilla.items():
                shape = tuple(file.get_slice(name).get_shape())  # checked before the values are read
                if shape != expected.shape:
                    raise WeightError(
                        f"{path}: {name} has shape {shape}, expected {tuple(expected.shape)}; "
                        "check architecture, num_classes and model_args in config.json"
                    )
                _check_tensor(path, name, file.get_tensor(name), expected.dtype, float32=float32)
    except WeightError:
        raise
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        # The reader raises other errors than its own for data types that torch lacks.
        reason = one_line(error, _MAX_TEXT)
        raise WeightError(f"{path} is not a readable safetensors file ({reason}); write it again") from error


def _check_tensor(path: Path, name: str, tensor: Tensor, expected: torch.dtype, *, float32: bool) -> None:
    floating = expected.is_floating_point
    if float32:
        wanted = torch.float32 if floating else expected  # counters stay integers
        if tensor.dtype != wanted:
            raise WeightError(f"{path}: {name} is {tensor.dtype}, expected {wanted}: save model.float()")
    elif tensor.dtype != expected and not (floating and tensor.dtype in _FLOATS):
        raise WeightError(f"{path}: {name} is {tensor.dtype}, expected {expected}; write the file again")
    # A finite sum implies finite values and is five times faster; a sum that is not finite may be an overflow.
    if floating and not tensor.sum().isfinite() and not torch.isfinite(tensor).all():
        raise WeightError(f"{path}: {name} has NaN or infinite values; use an earlier checkpoint")


def some(names: Iterable[str]) -> str:
    """Return the first three of some untrusted names, and how many more there are."""
    ordered = sorted(_shown(name, 80) for name in names)
    return ", ".join(ordered[:3]) + (f" and {len(ordered) - 3} more" if len(ordered) > 3 else "")


def _quoted(value: object) -> str:
    return _shown(ascii(value), 100)


def _shown(text: str, length: int) -> str:
    """Return an untrusted text as printable characters, shortened."""
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= length else text[: length - 1] + "…"


def is_index(key: Any, num_classes: int) -> bool:
    """Whether a key of timm's mapping from index to name, a string in JSON, is the index of an output."""
    return str(key).isdecimal() and int(key) < num_classes
