"""Settings that `accelerate launch` or `accelerate config` chose: used where the run's own settings leave them open."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from typing import Any, get_args

from accelerate.utils import DynamoBackend

from ssia_zoo.errors import ConfigError
from ssia_zoo.training.config import CompileMode, Precision, TrainConfig, filled

_log = logging.getLogger(__name__)

_PRECISION = "ACCELERATE_MIXED_PRECISION"
_ACCUMULATION = "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"
_BACKEND = "ACCELERATE_DYNAMO_BACKEND"
_MODE = "ACCELERATE_DYNAMO_MODE"
_BACKENDS = tuple(backend.value.lower() for backend in DynamoBackend if backend is not DynamoBackend.NO)


def resolve_launcher(config: TrainConfig) -> TrainConfig:
    """Fill precision, accumulation and compilation from the launcher where `config` leaves them open.

    `accelerate launch` hands its choices to the script as environment variables. A setting of `config` wins over them,
    and where they differ a line says so.

    Returns:
        Settings in which these are no longer None, but for backend and mode of a run that does not compile.

    Raises:
        ConfigError: If the launcher asks for what is not offered, or backend or mode are set without compilation.
    """
    chosen = _launchers()
    given = {name: getattr(config, name) for name in ("mixed_precision", "accumulation_steps", "compile")}
    of_compilation = {name: getattr(config, name) for name in ("compile_backend", "compile_mode")}
    if given["compile"] if given["compile"] is not None else chosen.get("compile"):
        given |= of_compilation
    elif any(of_compilation.values()):
        raise ConfigError("--compile-backend and --compile-mode do nothing without --compile")
    if config.compile_backend not in (None, *_BACKENDS):
        raise ConfigError(f"--compile-backend is {config.compile_backend!r}; expected one of {', '.join(_BACKENDS)}")
    for name, value in given.items():
        if value is not None and chosen.get(name, value) != value:
            _log.info("%s is used, not the launcher's %s", _flag(name, value), _flag(name, chosen[name]))
    taken = {name: chosen[name] for name, value in given.items() if value is None and name in chosen}
    if told := [_flag(name, value) for name, value in taken.items() if value != filled({}).get(name)]:
        _log.info("from accelerate's launcher: %s", ", ".join(told))
    return replace(config, **filled(given | taken))


def _launchers() -> dict[str, Any]:
    """Settings by which accelerate's launcher says something, by their names in `TrainConfig`."""
    chosen: dict[str, Any] = {}
    if precision := _read(_PRECISION, get_args(Precision)):
        chosen["mixed_precision"] = precision
    if steps := os.environ.get(_ACCUMULATION, "").strip():
        if not (steps.isdecimal() and int(steps) >= 1):
            raise ConfigError(f"{_ACCUMULATION} is {steps!r}; expected a number of batches from 1 on, or none")
        chosen["accumulation_steps"] = int(steps)
    backend = _read(_BACKEND, ("no", *_BACKENDS))
    if backend:
        chosen["compile"] = backend != "no"
    if backend not in (None, "no"):
        chosen |= {"compile_backend": backend, "compile_mode": _read(_MODE, get_args(CompileMode)) or "default"}
    return chosen


def _read(variable: str, offered: tuple[str, ...]) -> str | None:
    """The value of one of accelerate's variables, None where it is not set."""
    value = os.environ.get(variable, "").strip().lower()
    if value and value not in offered:
        raise ConfigError(f"accelerate's launcher sets {variable} to {value!r}; expected one of {', '.join(offered)}")
    return value or None


def _flag(name: str, value: Any) -> str:
    flag = name.replace("_", "-")
    return f"--{'' if value else 'no-'}{flag}" if isinstance(value, bool) else f"--{flag} {value}"
