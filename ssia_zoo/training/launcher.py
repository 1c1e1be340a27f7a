"""Settings of `accelerate launch` and `accelerate config`, used where the run's own settings do not decide."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from typing import Any, get_args

from accelerate.utils import DynamoBackend

from ssia_zoo.errors import ConfigError
from ssia_zoo.training.config import CompileMode, Precision, TrainConfig, fill_unset

_log = logging.getLogger(__name__)

_PRECISION = "ACCELERATE_MIXED_PRECISION"
_ACCUMULATION = "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"
_BACKEND = "ACCELERATE_DYNAMO_BACKEND"
_MODE = "ACCELERATE_DYNAMO_MODE"
_BACKENDS = tuple(backend.value.lower() for backend in DynamoBackend if backend is not DynamoBackend.NO)


def resolve_launcher(config: TrainConfig) -> TrainConfig:
    """Take precision, accumulation and compilation from the launcher where `config` does not set them.

    `accelerate launch` passes its settings as environment variables. Those of `config` take precedence; a difference is
    logged.

    Returns:
        Settings without None for these, except for the backend and mode of a run without compilation.

    Raises:
        ConfigError: The launcher requests an unsupported value, or backend or mode are set without compilation.
    """
    launcher = _launcher_settings()
    given = {name: getattr(config, name) for name in ("mixed_precision", "accumulation_steps", "compile")}
    of_compilation = {name: getattr(config, name) for name in ("compile_backend", "compile_mode")}
    if given["compile"] if given["compile"] is not None else launcher.get("compile"):
        given |= of_compilation
    elif any(of_compilation.values()):
        raise ConfigError("`compile_backend` and `compile_mode` require `compile`")
    if config.compile_backend not in (None, *_BACKENDS):
        raise ConfigError(f"`compile_backend` is {config.compile_backend!r}; expected one of {', '.join(_BACKENDS)}")
    for name, value in given.items():
        if value is not None and launcher.get(name, value) != value:
            _log.info("`%s` %s overrides the launcher's %s", name, value, launcher[name])
    taken = {name: launcher[name] for name, value in given.items() if value is None and name in launcher}
    if changed := [f"`{name}` {value}" for name, value in taken.items() if value != fill_unset({}).get(name)]:
        _log.info("from accelerate's launcher: %s", ", ".join(changed))
    resolved = replace(config, **fill_unset(given | taken))
    if resolved.compile:
        _check_backend(str(resolved.compile_backend))
    return resolved


def _check_backend(name: str) -> None:
    """Check that torch.compile finds a backend: several that Accelerate knows come with other packages."""
    from torch._dynamo import list_backends, lookup_backend  # takes a second
    from torch._dynamo.exc import InvalidBackend

    try:
        lookup_backend(name)
    except InvalidBackend as error:
        found = ", ".join(backend for backend in _BACKENDS if backend in list_backends(None))
        raise ConfigError(
            f"`compile_backend` is {name!r}, which is not installed; expected one of those that are: {found}"
        ) from error


def _launcher_settings() -> dict[str, Any]:
    """Return the settings that accelerate's launcher has passed, by their names in `TrainConfig`."""
    settings: dict[str, Any] = {}
    if precision := _read(_PRECISION, get_args(Precision)):
        settings["mixed_precision"] = precision
    if steps := os.environ.get(_ACCUMULATION, "").strip():
        if not (steps.isdecimal() and int(steps) >= 1):
            raise ConfigError(f"{_ACCUMULATION} is {steps!r}; expected a number of batches of at least 1, or no value")
        settings["accumulation_steps"] = int(steps)
    backend = _read(_BACKEND, ("no", *_BACKENDS))
    if backend:
        settings["compile"] = backend != "no"
    if backend not in (None, "no"):
        settings |= {"compile_backend": backend, "compile_mode": _read(_MODE, get_args(CompileMode)) or "default"}
    return settings


def _read(variable: str, supported: tuple[str, ...]) -> str | None:
    """Return the value of one of accelerate's variables, or None if it is not set."""
    value = os.environ.get(variable, "").strip().lower()
    if value and value not in supported:
        raise ConfigError(f"accelerate's launcher sets {variable} to {value!r}; expected one of {', '.join(supported)}")
    return value or None
