"""Errors that this package raises for its users: one line that says what is wrong, what was expected, what to do."""

from __future__ import annotations

import re

_USER_INFO = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:/+)[^\s/?#]*@")
_SECRET_PARAMETER = re.compile(r"([?&][\w.-]*(?:token|secret|password|signature|credential)[\w.-]*=)[^&\s#'\"]+", re.I)


def without_credentials(text: str) -> str:
    """A text whose addresses have lost their credentials.

    Those stand before the @ (https://user:password@host/path), or in parameters such as ?token=….
    """
    return _SECRET_PARAMETER.sub(r"\1…", _USER_INFO.sub(r"\1", text))


class SSIAZooError(Exception):
    """Base of every error that is the user's to mend; the command line prints it without a traceback.

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
