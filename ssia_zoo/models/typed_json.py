"""Build dataclasses from JSON values, checking types and ranges."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from reprlib import repr as short_repr
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin, get_type_hints


class Rule(NamedTuple):
    """Metadata of an annotated type, `Annotated[int, Rule(...)]`: which of its values are valid."""

    holds: Callable[[Any], object]
    expected: str


def matching(pattern: str) -> Rule:
    """Accept texts that match a regular expression from start to end."""
    return Rule(re.compile(pattern).fullmatch, f"a match of {pattern}")


def one_of(values: Sequence[str]) -> Rule:
    """Accept these values."""
    return Rule(values.__contains__, f"one of {', '.join(values)}")


def parse(kind: Any, value: Any, at: str = "") -> Any:
    """Check a JSON value against a type, and return it as that type.

    Args:
        kind: str, bool, int, float, Any, a dataclass, or tuple[...], dict[str, ...], `| None` and Annotated of these.
        value: What `json.loads` returned.
        at: Name of the field that holds the value.

    Raises:
        ValueError: If the value is not of the type; names the field.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin is Annotated:
        result, rule = parse(arguments[0], value, at), arguments[1]
        return result if rule.holds(result) else _refuse(value, at, rule.expected)
    if origin in (Union, UnionType):
        return None if value is None else parse(arguments[0], value, at)
    if is_dataclass(kind):
        return _parse_fields(kind, value, at) if isinstance(value, dict) else _refuse(value, at, "an object")
    if origin is dict:
        if not isinstance(value, dict):
            _refuse(value, at, "an object")
        return {key: parse(arguments[1], item, f"{at}.{key}") for key, item in value.items()}
    if origin is tuple:
        if not isinstance(value, list):
            _refuse(value, at, "a list")
        kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(value) != len(kinds):
            _refuse(value, at, f"{len(kinds)} values")
        return tuple(parse(each, item, f"{at}[{i}]") for i, (each, item) in enumerate(zip(kinds, value, strict=True)))
    if type(value) is kind or (kind is float and type(value) is int):
        return value
    return _refuse(value, at, {str: "a text", bool: "true or false", int: "an integer", float: "a number"}[kind])


@cache
def _kinds(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _parse_fields(kind: Any, values: dict[str, Any], at: str) -> Any:
    prefix, kinds = f"{at}." if at else "", _kinds(kind)
    if unknown := [name for name in values if name not in kinds]:
        raise ValueError(f"field {prefix + unknown[0]!r} is not known")
    if missing := [field.name for field in fields(kind) if field.default is MISSING and field.name not in values]:
        raise ValueError(f"field {prefix + missing[0]!r} is missing")
    return kind(**{name: parse(kinds[name], value, prefix + name) for name, value in values.items()})


def _refuse(value: Any, at: str, expected: str) -> Any:
    raise ValueError(f"{f'field {at!r}' if at else 'the file'} is {short_repr(value)}; expected {expected}")
