"""Errors for users: one line, whatever they quote."""

from __future__ import annotations

import pickle

import pytest

from ssia_zoo.errors import (
    ClassesError,
    ConfigError,
    DataError,
    HashError,
    HubError,
    SSIAZooError,
    TrainingError,
    WeightError,
)

KINDS = [SSIAZooError, ConfigError, DataError, ClassesError, WeightError, HashError, HubError, TrainingError]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_is_one_line_and_survives_another_process(kind: type[SSIAZooError]) -> None:
    error = kind("the name 'a\nb\r\nc\u2028d  e' is wrong\n")
    assert str(error) == "the name 'a b c d  e' is wrong"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
