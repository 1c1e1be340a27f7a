"""Errors that this package raises for its users: one line that says what is wrong, what was expected, what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

_USER_INFO = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:/+)[^\s/?#]*@")
_SECRET_PARAMETER = re.compile(r"([?&][\w.-]*(?:token|secret|password|signature|credential)[\w.-]*=)[^&\s#'\"]+", re.I)

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_SETTING = re.compile(r"`([a-z][a-z0-9_.]*)`")


def without_credentials(text: str) -> str:
    """A text whose addresses have lost their credentials.

    Those stand before the @ (https://user:password@host/path), or in parameters such as ?token=….
    """
    return _SECRET_PARAMETER.sub(r"\1…", _USER_INFO.sub(r"\1", text))


def one_line(error: BaseException, limit: int | None = None) -> str:
    """Return an error's text as one printable line without credentials, its type's name if it has none.

    Args:
        error: Any exception.
        limit: Longest text to return, characters.
    """
    text = without_credentials(" ".join(_COLOUR.sub("", str(error)).split()))[:limit] or type(error).__name__
    return "".join(character if character.isprintable() else "?" for character in text)


def did_you_mean(name: str, known: Iterable[str], otherwise: str, *, most: int = 3, cutoff: float = 0.6) -> str:
    """Return "did you mean a, b?" with the known names nearest to a wrong one, or `otherwise` if none is near."""
    near = get_close_matches(name, list(known), n=most, cutoff=cutoff)
    return f"did you mean {', '.join(near)}?" if near else otherwise


def with_flags(text: str) -> str:
    """Return a message as the command line prints it: `batch_size` becomes --batch-size.

    Messages of this package put the name of a setting, and nothing else that is a single lower-case word, in
    backticks: a Python caller reads the name of the field, a user of the command line that of the flag.
    """
    return _SETTING.sub(lambda match: "--" + match[1].replace("_", "-"), text)


class SSIAZooError(Exception):
    """Base class for errors the user can fix; the command line prints them without a traceback.

    Args:
        message: One line; line ends in what it quotes (names and values from files) become spaces, and addresses
            lose their credentials.
    """

    def __init__(self, message: str) -> None:
        super().__init__(without_credentials(" ".join(message.splitlines())))


class ConfigError(SSIAZooError, ValueError):
    """A setting, a flag or a configuration file is not valid."""


class DataError(SSIAZooError, ValueError):
    """A data set cannot be found, read or used as asked."""


class ClassesError(DataError):
    """A model's classes and a data set's do not go together."""


class WeightError(SSIAZooError, RuntimeError):
    """A weight file is missing, damaged, or not what it claims to be."""


class HashError(WeightError):
    """A weight file's sha256 is not the published one."""


class HubError(SSIAZooError, RuntimeError):
    """The Hugging Face Hub could not be reached, or refused what was asked of it."""


class TrainingError(SSIAZooError, RuntimeError):
    """Training cannot go on, or its result cannot be used."""


class ExportError(SSIAZooError, RuntimeError):
    """A model cannot be exported to a target, or the artefact does not give what the model gives."""
