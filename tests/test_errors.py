"""Errors for users are one line, without credentials."""

from __future__ import annotations

import ast
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssia_zoo.errors import (
    ClassesError,
    ConfigError,
    DataError,
    HashError,
    HubError,
    SSIAZooError,
    TrainingError,
    WeightError,
    with_flags,
    without_credentials,
)
from ssia_zoo.training.config import TrainConfig

PACKAGE = Path(__file__).resolve().parents[1] / "ssia_zoo"
LIBRARIES = ("data", "loss", "hub", "models", "evaluation", "inference")
KINDS = [SSIAZooError, ConfigError, DataError, ClassesError, WeightError, HashError, HubError, TrainingError]

_userinfo = st.text(st.characters(exclude_categories=["Z", "C"], exclude_characters="/?#"), min_size=1)
_host = st.sampled_from(["huggingface.co", "127.0.0.1:9", "[::1]:8000", "hub.example.org"])
_path = st.sampled_from(["", "/", "/api/models/org/name", "/org/name@main", "?x=a@b", "#a@b", "/@user/x"])
_prose = st.text(st.characters(exclude_characters=":"), max_size=20)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_is_one_line_and_survives_another_process(kind: type[SSIAZooError]) -> None:
    error = kind("the name 'a\nb\r\nc\u2028d  e' is wrong\n")
    assert str(error) == "the name 'a b c d  e' is wrong"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@given(st.sampled_from(["http", "https", "s3", "socks5h", "HTTPS"]), _userinfo, _userinfo, _host, _path, _prose, _prose)
def test_only_credentials_are_removed_from_addresses(
    scheme: str, user: str, password: str, host: str, path: str, before: str, after: str
) -> None:
    bare = f"{before} {scheme}://{host}{path} {after}"
    for userinfo in (f"{user}:{password}", user, f":{password}", ""):
        text = f"{before} {scheme}://{userinfo}@{host}{path} {after}"
        assert without_credentials(text) == bare
        assert without_credentials(bare) == bare
    assert str(HubError(f"{scheme}://{user}:{password}@{host}")) == f"{scheme}://{host}"


def test_credentials_are_removed_from_an_address_treated_as_a_path() -> None:
    assert without_credentials("no file at /home/me/http:/alice:secret@host/x") == "no file at /home/me/http:/host/x"


def test_secret_parameters_are_removed_from_addresses() -> None:
    text = "at https://host/x?token=abc&v=1&X-Amz-Signature=def (no answer)"
    assert without_credentials(text) == "at https://host/x?token=…&v=1&X-Amz-Signature=… (no answer)"
    assert without_credentials("https://host/x?v=1&page=2") == "https://host/x?v=1&page=2"


def messages(package: str) -> Iterator[tuple[str, str]]:
    """Yield the string literals of a package that are not docstrings, and where they are."""
    for path in sorted((PACKAGE / package).rglob("*.py")):
        if path.name in ("card.py", "reproduce.py"):  # a model card shows commands
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                yield f"{path.name}:{node.lineno}", node.value


@pytest.mark.parametrize("package", LIBRARIES)
def test_messages_of_the_library_name_settings_by_field_not_by_flag(package: str) -> None:
    flags = [(place, text) for place, text in messages(package) if re.search(r"(?<![\w-])--([a-z]|$)", text)]
    assert not flags


def test_a_lower_case_word_in_backticks_is_a_setting_which_the_command_line_shows_as_its_flag() -> None:
    fields = get_type_hints(TrainConfig).keys()
    found = [
        (place, text, name) for place, text in messages("data") for name in re.findall("`([a-z][a-z0-9_.]*)`", text)
    ]
    assert len(found) > 20
    assert [entry for entry in found if entry[2] not in fields] == []
    for _, text, name in found:
        assert f"--{name.replace('_', '-')}" in with_flags(text)
