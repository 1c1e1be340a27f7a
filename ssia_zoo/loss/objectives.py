"""Find objectives by name: those of this package, of other packages' entry points, and `package.module:Class`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from ssia_zoo.errors import ConfigError, SSIAZooError, did_you_mean, one_line
from ssia_zoo.loss.at import ATLoss
from ssia_zoo.loss.base import RESERVED, AuxiliaryLoss, StageShape
from ssia_zoo.loss.byot import BYOTLoss
from ssia_zoo.loss.dks import DKSLoss
from ssia_zoo.loss.dsn import DSNLoss
from ssia_zoo.loss.rival import RivalLoss
from ssia_zoo.loss.sad import SADLoss

GROUP = "ssia_zoo.objectives"
"""Entry-point group in which other packages name their objectives."""

RIVALS: dict[str, type[RivalLoss]] = {loss.name: loss for loss in (SADLoss, ATLoss, DSNLoss, BYOTLoss, DKSLoss)}

METHOD_NAMES = ("ssia", "vanilla", *RIVALS, "logit-kd", "feature-kd")
"""Values of `method` that need no other package."""

_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_EXPECTED = "expected package.module:Class, with the package installed, on PYTHONPATH or in the current folder"


@dataclass(frozen=True)
class Objective:
    """An objective of another package."""

    loss: type[AuxiliaryLoss]
    path: str
    """package.module:Class"""
    version: str
    """Version of its package, and hash of the file that defines it."""

    def __str__(self) -> str:
        title = f"{self.loss.source}: " if self.loss.source else ""
        return f"{title}{self.path} ({self.version})"


def check_method_name(name: str) -> str:
    """Check that a name is one of `METHOD_NAMES`, an entry point, or of the form `package.module:Class`.

    Nothing is imported.

    Raises:
        ConfigError: It is none of these.
    """
    if name in METHOD_NAMES or _PATH.fullmatch(name):
        return name
    if name not in (known := [*METHOD_NAMES, *_entry_points()]):
        hint = did_you_mean(name, known, "choose one of them", most=1)
        raise ConfigError(f"`method` is {name!r}; expected one of {', '.join(known)}, or package.module:Class; {hint}")
    return name


def find_objective(name: str) -> Objective:
    """Import an objective of another package.

    Args:
        name: Name of an entry point of the group `ssia_zoo.objectives`, or `package.module:Class`.

    Raises:
        ConfigError: It cannot be imported, or is not an objective.
    """
    path = name if ":" in name else _entry_points()[check_method_name(name)]
    module_name, _, attribute = path.partition(":")
    module = _import(module_name, path)
    found: Any = module
    for part in attribute.split("."):
        known = [key for key, value in vars(found).items() if isinstance(value, type)]
        if (found := getattr(found, part, None)) is None:
            hint = did_you_mean(part, known, f"it defines {', '.join(known) or 'no class'}", most=1)
            raise ConfigError(f"`method` {path}: {module_name} has no {attribute}; {hint}")
    loss = checked_class(found, path)
    return Objective(loss, path, _version(sys.modules[loss.__module__]))


def checked_class(loss: Any, path: str) -> type[AuxiliaryLoss]:
    """Check that something is an objective's class that declares what it must.

    Raises:
        ConfigError: It is not.
    """
    if not (isinstance(loss, type) and issubclass(loss, AuxiliaryLoss)):
        raise ConfigError(f"`method` {path}: is not a subclass of ssia_zoo.loss.AuxiliaryLoss")
    name = getattr(loss, "name", None)
    if not isinstance(name, str) or not name or name in RESERVED:
        raise ConfigError(
            f"`method` {path}: its class attribute name is {name!r}; expected the key of its result, other than "
            f"{', '.join(RESERVED)}"
        )
    if unknown := set(loss.gradient_to) - {"lower", "deepest", "logits"}:
        raise ConfigError(
            f"`method` {path}: its class attribute gradient_to has {unknown.pop()!r}; expected lower, deepest, logits"
        )
    return loss


def check_keywords(loss: type[AuxiliaryLoss], keywords: Mapping[str, Any], path: str) -> None:
    """Check the keyword settings of an objective against its constructor.

    Raises:
        ConfigError: One is unknown or missing.
    """
    parameters = list(inspect.signature(loss).parameters.values())[2:]  # after shapes and num_classes
    named = {p.name: p for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for keyword in keywords:
        if keyword not in named and not takes_any:
            otherwise = f"it takes {', '.join(named) or 'none'}"
            raise ConfigError(
                f"`method_kwargs` {keyword}: is not a setting of {path}; {did_you_mean(keyword, named, otherwise)}"
            )
    if missing := [name for name, p in named.items() if p.default is p.empty and name not in keywords]:
        raise ConfigError(f"`method_kwargs` {missing[0]}: is missing; {path} requires it")


def build(
    loss: type[AuxiliaryLoss], keywords: Mapping[str, Any], path: str, shapes: Sequence[StageShape], num_classes: int
) -> AuxiliaryLoss:
    """Build an objective.

    Raises:
        ConfigError: Its constructor raises, or refuses these stages.
    """
    try:
        return loss(shapes, num_classes, **keywords)
    except SSIAZooError:
        raise
    except Exception as error:
        raise ConfigError(f"`method` {path}: cannot be built: {describe_error(error)}") from error


def describe_error(error: BaseException) -> str:
    """Return an error's type, text and last place outside installed packages, in one line."""
    text = f"{type(error).__name__}: {one_line(error, 300)}"
    if isinstance(error, SyntaxError):  # its text names the place
        return text
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "site-packages" not in f.filename and not f.filename.startswith(("<", sys.base_prefix))]
    return f"{text} ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else text


def _entry_points() -> dict[str, str]:
    """Return the paths of the installed packages' objectives by name."""
    return {point.name: point.value for point in metadata.entry_points(group=GROUP) if point.name not in METHOD_NAMES}


def _import(name: str, path: str) -> ModuleType:
    top = name.partition(".")[0]
    folder = Path.cwd()
    if str(folder) not in sys.path and ((folder / top).is_dir() or (folder / f"{top}.py").is_file()):
        sys.path.append(str(folder))  # last, so that it hides no installed package
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # a module may raise anything
        missing = (
            isinstance(error, ModuleNotFoundError)
            and error.name is not None
            and f"{name}.".startswith(f"{error.name}.")
        )
        detail = f"no module {name}; {_EXPECTED}" if missing else f"cannot be imported: {describe_error(error)}"
        raise ConfigError(f"`method` {path}: {detail}") from error


def _version(module: ModuleType) -> str:
    top = module.__name__.partition(".")[0]
    owners = metadata.packages_distributions().get(top)
    known = f"{owners[0]} {metadata.version(owners[0])}" if owners else ""
    if not known and (stated := getattr(sys.modules[top], "__version__", None)):
        known = f"{top} {stated}"
    file = getattr(module, "__file__", None)
    if file is None:
        return known or "version unknown"
    digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12]
    return f"{known}, sha256 {digest}" if known else f"sha256 {digest}"
