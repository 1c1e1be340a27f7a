"""Commands that messages suggest as the next step."""

from __future__ import annotations

import shlex
from pathlib import Path

import timm


def folder_argument(folder: Path | str) -> str:
    """Return a folder as commands take it: "./resnet18" for a folder named like a model."""
    return shlex.quote(f"./{folder}" if timm.is_model(str(folder)) else str(folder))


def publish_command(folder: Path | str, repo_id: str, private: bool = False) -> str:
    """Return the command that publishes a folder to a repository."""
    return f"ssia-zoo publish {folder_argument(folder)} {shlex.quote(repo_id)}" + (" --private" if private else "")
