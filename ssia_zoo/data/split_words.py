"""Words by which people name the splits of a data set."""

from __future__ import annotations

import re

_WORDS = {
    "train": ("train", "training", "trn"),
    "validation": ("validation", "valid", "val", "dev", "validate"),
    "test": ("test", "testing", "tst", "eval", "evaluation"),
}
_KINDS = {word: kind for kind, words in _WORDS.items() for word in words}
# train_images, TestSet, validation-data-2
_ENDINGS = ("set", "data", "dataset", "images", "split", "folder")
_KINDS_OF_COMPOUNDS = _KINDS | {word + end: kind for word, kind in _KINDS.items() for end in _ENDINGS}


def split_kind(name: str) -> str | None:
    """The split that a name alone stands for, in letters of any case: train, validation, test, or None."""
    return _KINDS.get(name.strip().lower())


def split_word(name: str) -> str | None:
    """The split that a word of a name stands for, if all that do stand for the same one."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    kinds = {_KINDS_OF_COMPOUNDS.get(part.lower()) for part in (*parts, *re.findall(r"[A-Za-z]+", name))} - {None}
    return kinds.pop() if len(kinds) == 1 else None
