"""Dataclasses from JSON values: types, ranges and the names of fields in errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import pytest

from ssia_zoo.models.typed_json import Rule, matching, one_of, parse


@dataclass(frozen=True)
class Inner:
    count: Annotated[int, Rule(lambda value: value >= 1, "at least 1")]
    mode: Annotated[str, one_of(("a", "b"))] = "a"


@dataclass(frozen=True)
class Outer:
    size: tuple[int, float]
    inner: tuple[Inner, ...]
    tag: Annotated[str, matching("[a-z]+")] | None
    extra: dict[str, Any]
    ready: bool


VALID: dict[str, Any] = {"size": [1, 2], "inner": [{"count": 3}], "tag": None, "extra": {"x": [1]}, "ready": True}


def test_valid_values_become_dataclasses() -> None:
    assert parse(Outer, VALID) == Outer((1, 2), (Inner(3, "a"),), None, {"x": [1]}, True)
    assert parse(Outer, {**VALID, "inner": [], "tag": "abc"}) == Outer((1, 2), (), "abc", {"x": [1]}, True)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"size": [1]}, r"field 'size' is \[1\]; expected 2 values"),
        ({"size": 1}, "field 'size' is 1; expected a list"),
        ({"size": [1.5, 2]}, r"field 'size\[0\]' is 1.5; expected an integer"),
        ({"size": [True, 2]}, r"field 'size\[0\]' is True; expected an integer"),
        ({"size": [1, "2"]}, r"field 'size\[1\]' is '2'; expected a number"),
        ({"inner": [{"count": 0}]}, r"field 'inner\[0\].count' is 0; expected at least 1"),
        ({"inner": [{"count": 1, "mode": "c"}]}, r"field 'inner\[0\].mode' is 'c'; expected one of a, b"),
        ({"inner": [{}]}, r"field 'inner\[0\].count' is missing"),
        ({"inner": [{"count": 1, "x": 2}]}, r"field 'inner\[0\].x' is not known"),
        ({"inner": [3]}, r"field 'inner\[0\]' is 3; expected an object"),
        ({"tag": "A"}, r"field 'tag' is 'A'; expected a match of \[a-z\]\+"),
        ({"tag": "a\n"}, "field 'tag'"),
        ({"extra": []}, r"field 'extra' is \[\]; expected an object"),
        ({"ready": 1}, "field 'ready' is 1; expected true or false"),
    ],
)
def test_an_error_names_the_field_and_what_is_expected(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        parse(Outer, VALID | changes)


def test_a_value_that_is_not_an_object_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the file is \[\]; expected an object"):
        parse(Outer, [])
