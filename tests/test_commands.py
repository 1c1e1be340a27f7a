"""Commands in messages can be pasted into a shell."""

from __future__ import annotations

import shlex

import pytest

from ssia_zoo.commands import publish_command


@pytest.mark.parametrize(
    ("folder", "repo_id", "private", "words"),
    [
        ("runs/mine", "org/name", False, ["runs/mine", "org/name"]),
        ("my run", "org/name", True, ["my run", "org/name", "--private"]),
        ("runs/mine", "org/na me", False, ["runs/mine", "org/na me"]),
        ("resnet18", "org/name", False, ["./resnet18", "org/name"]),  # "resnet18" would mean the model
    ],
)
def test_a_publish_command_names_folder_and_repository(
    folder: str, repo_id: str, private: bool, words: list[str]
) -> None:
    assert shlex.split(publish_command(folder, repo_id, private)) == ["ssia-zoo", "publish", *words]
