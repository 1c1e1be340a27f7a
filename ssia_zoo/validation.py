"""Settings classes: dataclasses whose fields pydantic checks, with this package's one-line errors."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from itertools import takewhile
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, ValidationError

from ssia_zoo.errors import ConfigError, did_you_mean

Class = TypeVar("Class", bound=type)

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
"""Options of the pydantic dataclasses: unknown names, infinities and NaN are errors."""

Fraction = Annotated[float, Field(ge=0, le=1)]
FractionBelow1 = Annotated[float, Field(ge=0, lt=1)]
FractionAbove0 = Annotated[float, Field(gt=0, le=1)]


def one_of(names: tuple[str, ...]) -> AfterValidator:
    """Return a check that a string is one of these names."""

    def check(value: str) -> str:
        if value not in names:
            raise ValueError(f"one of {', '.join(names)}")
        return value

    return AfterValidator(check)


def one_line_errors(group: str = "") -> Callable[[Class], Class]:
    """Make a pydantic dataclass raise `ConfigError` in place of pydantic's error of several lines.

    Args:
        group: Name of the settings group that the class describes, put before its fields' names in messages.
    """

    def decorate(cls: Class) -> Class:
        init = cls.__init__  # type: ignore[misc]  # of the class that is decorated

        @functools.wraps(init)
        def checked_init(self: Any, *args: Any, **kwargs: Any) -> None:
            try:
                init(self, *args, **kwargs)
            except ValidationError as error:
                raise _config_error(error, cls, group) from None

        cls.__init__ = checked_init  # type: ignore[misc]
        return cls

    return decorate


_ORDER = {"unexpected_keyword_argument": 0, "missing": 2}  # a misspelt name is the reason why another is missing


def _config_error(error: ValidationError, cls: type, group: str) -> ConfigError:
    """Describe one fault that pydantic found, an unknown name first: field, value, and what was expected."""
    first = min(error.errors(include_url=False), key=lambda fault: _ORDER.get(fault["type"], 1))
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):  # raised by the __post_init__ of a class
        return cause
    path = [str(part) for part in takewhile(lambda part: isinstance(part, str), first["loc"])]
    name = ".".join([group, *path] if group else path) or cls.__name__
    if first["type"] == "unexpected_keyword_argument":
        group_name, _, field = path[-1].rpartition(".")
        otherwise = f"write {field} under {group_name}:" if group_name else "leave it out"
        return ConfigError(f"{name!r} is not a setting; {did_you_mean(path[-1], _fields(cls, path), otherwise)}")
    if first["type"] == "missing" and len(path) == len(first["loc"]):
        return ConfigError(f"`{name}` is missing")
    expected = re.sub(r"^(Value error, |\w+ should (be|have) )", "", first["msg"])
    if first["type"] == "missing":  # in a tuple
        expected = "more values"
    elif expected.startswith(("greater", "less")):
        expected = f"a number {expected}"
    return ConfigError(f"`{name}` is {first['input']!r}; expected {expected}")


def _fields(cls: Any, path: list[str]) -> list[str]:
    """Return the names of the fields beside the one that a path leads to."""
    for group in path[:-1]:
        cls = cls.__pydantic_fields__[group].annotation
    return list(cls.__pydantic_fields__)
