"""What repeating the training of a published weight needs."""

from __future__ import annotations

from typing import NamedTuple

from ssia_zoo.models.weight import PublishedWeight


class Needed(NamedTuple):
    """A folder that a training read and that nobody can download by its name."""

    setting: str
    """flag that names it, without dashes"""
    placeholder: str
    """stands for it in commands, in capitals"""
    what: str
    """what it holds and where it comes from"""


def needed_folders(weight: PublishedWeight) -> list[Needed]:
    """Return the folders that a user must have to repeat a training; none if everything is on the Hub."""
    dataset, model = str(weight.training.get("dataset", "")), str(weight.training.get("model", ""))
    needed = []
    if dataset != "digits" and "/" not in dataset:
        what = f"{weight.dataset.name} from {weight.dataset.source}, as in docs/finetune.md"
        needed.append(Needed("dataset", "DATA", what))
    if model.startswith("local-dir:"):
        needed.append(Needed("model", "local-dir:BASE", "the pretrained weights that the description names"))
    return needed


def flags(needed: list[Needed]) -> str:
    """Return the flags that name these folders, each after a space."""
    return "".join(f" --{folder.setting} {folder.placeholder}" for folder in needed)


def legend(needed: list[Needed]) -> list[str]:
    """Return what each placeholder stands for."""
    return [f"{folder.placeholder.removeprefix('local-dir:')}: {folder.what}" for folder in needed]
