"""Error classes, whose messages are one line: what is wrong, what was expected, what to do; and helpers for them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

_USER_INFO = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:/+)[^\s/?#]*@")
_SECRET_PARAMETER = re.compile(r"([?&][\w.-]*(?:token|secret|password|signature|credential)[\w.-]*=)[^&\s#'\"]+", re.I)

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_SETTING = re.compile(r"`([a-z][a-z0-9_.]*)`")


def without_credentials(text: str) -> str:
    """Remove credentials from the addresses in a text.

    They occur before the @ (https://user:password@host/path) and in parameters such as ?token=….
    """
    return _SECRET_PARAMETER.sub(r"\1…", _USER_INFO.sub(r"\1", text))


def one_line(error: BaseException, limit: int | None = None) -> str:
    """Return an error's text, or its type's name if it has none, as one printable line without credentials.

    Args:
        error: Any exception.
        limit: Maximum number of characters.
    """
    text = without_credentials(" ".join(_COLOUR.sub("", str(error)).split()))[:limit] or type(error).__name__
    return "".join(character if character.isprintable() else "?" for character in text)


def did_you_mean(name: str, known: Iterable[str], otherwise: str, *, most: int = 3, cutoff: float = 0.6) -> str:
    """Return "did you mean a, b?" with the known names most similar to a wrong one; `otherwise` if there are none."""
    near = get_close_matches(name, list(known), n=most, cutoff=cutoff)
    return f"did you mean {', '.join(near)}?" if near else otherwise


def with_flags(text: str) -> str:
    """Replace the names of settings in a message by their flags: `batch_size` becomes --batch-size.

    In messages of this package, a single lower-case word in backticks is always the name of a setting.
    """
    return _SETTING.sub(lambda match: "--" + match[1].replace("_", "-"), text)


class SSIAZooError(Exception):
    """Base class for errors the user can fix; the command line prints them without a traceback.

    Args:
        message: The text; line breaks become spaces, and credentials in addresses are removed.
    """

    def __init__(self, message: str) -> None:
        super().__init__(without_credentials(" ".join(message.splitlines())))


class ConfigError(SSIAZooError, ValueError):
    """A setting or a configuration file is not valid."""


class DataError(SSIAZooError, ValueError):
    """A data set cannot be found, read or used."""


class ClassesError(DataError):
    """The classes of a model and of a data set do not match."""


class WeightError(SSIAZooError, RuntimeError):
    """A weight file is missing, damaged, or not the expected one."""


class HashError(WeightError):
    """A weight file's sha256 is not the published one."""


class HubError(SSIAZooError, RuntimeError):
    """The Hugging Face Hub cannot be reached, or refuses a request."""


class TrainingError(SSIAZooError, RuntimeError):
    """Training cannot continue, or its result cannot be used."""


class ExportError(SSIAZooError, RuntimeError):
    """A model cannot be exported, or the exported model's outputs differ from the model's."""
