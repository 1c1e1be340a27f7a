"""List folders of images once: follow links, refuse cycles, and count what is not an image."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from ssia_zoo.data.image_types import FOREIGN_SUFFIXES, image_suffixes, is_image, suffix_of
from ssia_zoo.data.messages import printable
from ssia_zoo.errors import DataError

# Folders of file systems and servers, some of which hold copies of images.
_SYSTEM = ("lost+found", "$RECYCLE.BIN", "System Volume Information", "@eaDir", "__MACOSX")


@dataclass
class Listing:
    """Names in one folder, sorted."""

    folders: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    links: set[str] = field(default_factory=set)
    """Images that are links."""
    others: list[str] = field(default_factory=list)
    """Files that are not images."""
    hidden: list[str] = field(default_factory=list)


class Scanner:
    """Lists the folders below a root, each once."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.skipped: Counter[str] = Counter()
        """Number of files or folders that are not used, by reason."""
        self.empty: list[str] = []
        """Folders in the place of a class or split that hold no image."""
        self._listings: dict[str, Listing] = {}

    def list(self, folder: str) -> Listing:
        """List a folder.

        Raises:
            DataError: It cannot be read, or holds a broken link.
        """
        if folder not in self._listings:
            self._listings[folder] = self._list(folder)
        return self._listings[folder]

    def has_image(self, folder: str, parents: tuple[tuple[int, int], ...] = ()) -> bool:
        """Return whether there is an image in a folder or below it."""
        listing, parents = self.list(folder), self._append(folder, parents)
        return bool(listing.images) or any(
            self.has_image(os.path.join(folder, name), parents) for name in listing.folders
        )

    def walk(self, folder: str, parents: tuple[tuple[int, int], ...] = ()) -> Iterator[tuple[str, Listing]]:
        """Yield a folder and all folders below it, with their listings.

        Raises:
            DataError: A link points to a folder that contains it.
        """
        listing, parents = self.list(folder), self._append(folder, parents)
        yield folder, listing
        for name in listing.folders:
            yield from self.walk(os.path.join(folder, name), parents)

    def relative(self, path: str) -> str:
        """Return a path relative to the root, as printable text."""
        return printable(os.path.relpath(path, self.root))

    def skip(self, listing: Listing) -> None:
        """Count the files and folders of a listing that are not used."""
        self.skipped["hidden"] += len(listing.hidden)
        for name in listing.others:
            self.skipped[suffix_of(name) or "without suffix"] += 1

    def find_foreign(self, folder: str) -> str | None:
        """Return a file below a folder that is an image of an unsupported type or suffix, if there is one."""
        for place, listing in self.walk(folder):
            for name in listing.others:
                if suffix_of(name) in FOREIGN_SUFFIXES or is_image(os.path.join(place, name)):
                    return os.path.join(place, name)
        return None

    def _append(self, folder: str, parents: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        """Add a folder's device and inode to those of its parents, which it must not be one of."""
        status = os.stat(folder)
        inode = (status.st_dev, status.st_ino)
        if inode in parents:
            raise DataError(
                f"{self.relative(folder)} in {printable(self.root)} is a link to a folder that contains it; remove the "
                "link"
            )
        return (*parents, inode)

    def _list(self, folder: str) -> Listing:
        listing, suffixes = Listing(), image_suffixes()
        try:
            with os.scandir(folder) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    self._add(entry, listing, suffixes)
        except OSError as error:
            raise DataError(
                f"{self.relative(folder)} in {printable(self.root)} cannot be read ({error.strerror or error}); change "
                "its permissions or remove it"
            ) from error
        return listing

    def _add(self, entry: os.DirEntry[str], listing: Listing, suffixes: frozenset[str]) -> None:
        suffix = suffix_of(entry.name)
        if entry.name.startswith(".") or entry.name in _SYSTEM:
            listing.hidden.append(entry.name)
        elif entry.is_dir():
            listing.folders.append(entry.name)
        elif suffix in suffixes:  # a broken link to an image counts as an unreadable image later
            listing.images.append(entry.name)
            if entry.is_symlink():
                listing.links.add(entry.name)
        elif not suffix and entry.is_symlink() and not os.path.exists(entry.path):
            raise DataError(
                f"{self.relative(entry.path)} in {printable(self.root)} is a broken link; repair or remove it"
            )
        else:
            listing.others.append(entry.name)
