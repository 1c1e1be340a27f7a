"""Read the settings of a training run: defaults, then a file, then command line flags."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import dacite
import tyro
import yaml

from ssia_zoo.errors import ConfigError, SSIAZooError
from ssia_zoo.models.registry import published_weight
from ssia_zoo.resources import resource_dir
from ssia_zoo.training.checks import check_config
from ssia_zoo.training.config import TrainConfig

_log = logging.getLogger(__name__)


class _Loader(yaml.SafeLoader):
    """Safe YAML that takes 1e-3 for a number, as JSON and everybody else does; PyYAML wants 1.0e-3."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+"), list("-+.0123456789")
)


def read_config(source: str) -> TrainConfig:
    """Read settings from a file.

    Args:
        source: A YAML or JSON file of settings, a JSON of hub_configs/ (its training settings are taken), or the name
            of a published weight, such as "mobilenetv3_small_050_ssia.digits_r32"; "./NAME" is the file.

    Raises:
        ConfigError: If it cannot be read or holds an unknown or wrong setting; names the file and the field.
    """
    path = Path(source)
    if (published := published_weight(source)) is not None:
        if path.exists():
            _log.warning("--config %s means the published weight; the file of this name here is ./%s", source, source)
        path = resource_dir("hub_configs") / f"{published.name}.json"
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # JSON is YAML, but for its floats
    except OSError as error:
        raise ConfigError(
            f"--config {source}: cannot be read ({error.strerror}); expected a YAML or JSON file"
        ) from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"--config {source}: is not valid YAML or JSON: {' '.join(str(error).split())}") from error
    if isinstance(data, dict) and "sha256" in data and isinstance(data.get("training"), dict):
        data = data["training"]  # a published weight's description
    if not isinstance(data, dict):
        raise ConfigError(f"--config {source}: expected settings by name, got {type(data).__name__}")
    try:
        return dacite.from_dict(TrainConfig, data, dacite.Config(strict=True, cast=[tuple]))
    except (dacite.DaciteError, TypeError, ValueError) as error:
        raise ConfigError(f"--config {source}: {error}") from error


def parse_config(args: Sequence[str]) -> TrainConfig:
    """Settings from command line flags over those of `--config FILE`.

    Raises:
        ConfigError: If a setting is missing or makes no sense.
        SystemExit: After `--help`, or for a flag that does not exist.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config")
    known, rest = first.parse_known_args(args)
    default = read_config(known.config) if known.config else TrainConfig()
    description = f"{TrainConfig.__doc__}\n--config FILE takes settings from YAML or JSON; flags override them."
    drawn = io.StringIO()
    try:
        with contextlib.redirect_stderr(drawn):
            config = tyro.cli(TrainConfig, args=rest, default=default, prog="train_hf.py", description=description)
    except SystemExit as stop:
        if (refused := _refusal(stop)) is not None:  # tyro draws a box around what a settings class refuses
            raise ConfigError(str(refused)) from refused
        sys.stderr.write(drawn.getvalue())
        raise
    check_config(config)
    return config


def _refusal(error: BaseException | None) -> SSIAZooError | None:
    """The error of this package that another one came of."""
    while error is not None and not isinstance(error, SSIAZooError):
        error = error.__cause__ or error.__context__
    return error
