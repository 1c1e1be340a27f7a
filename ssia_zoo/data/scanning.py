"""Walk folders of images once: links are followed, cycles refused, and what is not an image is counted."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from ssia_zoo.data.image_types import FOREIGN_SUFFIXES, image_suffixes, suffix_of
from ssia_zoo.errors import DataError

_EXAMPLES = 3
# Of file systems and servers; some hold copies of images.
_SYSTEM = ("lost+found", "$RECYCLE.BIN", "System Volume Information", "@eaDir", "__MACOSX")


@dataclass
class Listing:
    """What lies in one folder, sorted by name."""

    folders: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    links: set[str] = field(default_factory=set)
    """Those of the images that are links."""
    others: list[str] = field(default_factory=list)
    """Files that are no images."""
    hidden: list[str] = field(default_factory=list)


class Scanner:
    """Lists the folders below a root, each once."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.left_out: Counter[str] = Counter()
        """How many files or folders are not used, by the reason."""
        self.empty: list[str] = []
        """Folders in the place of a class that hold no image."""
        self._listings: dict[str, Listing] = {}

    def list(self, folder: str) -> Listing:
        """List a folder.

        Raises:
            DataError: It cannot be read, or holds a link that leads nowhere.
        """
        if folder not in self._listings:
            self._listings[folder] = self._list(folder)
        return self._listings[folder]

    def has_image(self, folder: str, above: tuple[tuple[int, int], ...] = ()) -> bool:
        """Tell whether there is an image in a folder or below it."""
        listing, above = self.list(folder), self._with(folder, above)
        return bool(listing.images) or any(
            self.has_image(os.path.join(folder, name), above) for name in listing.folders
        )

    def walk(self, folder: str, above: tuple[tuple[int, int], ...] = ()) -> Iterator[tuple[str, Listing]]:
        """Yield a folder and all below it, with what is in them.

        Raises:
            DataError: A link leads back to a folder that it is in.
        """
        listing, above = self.list(folder), self._with(folder, above)
        yield folder, listing
        for name in listing.folders:
            yield from self.walk(os.path.join(folder, name), above)

    def relative(self, path: str) -> str:
        """Name a path as seen from the root."""
        return printable(os.path.relpath(path, self.root))

    def _with(self, folder: str, above: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        status = os.stat(folder)
        here = (status.st_dev, status.st_ino)
        if here in above:
            raise DataError(
                f"{self.relative(folder)} in {printable(self.root)} is a link to a folder that it is in, which never "
                "ends; remove the link"
            )
        return (*above, here)

    def _list(self, folder: str) -> Listing:
        found, suffixes = Listing(), image_suffixes()
        try:
            with os.scandir(folder) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    self._sort(entry, found, suffixes)
        except OSError as error:
            raise DataError(
                f"{self.relative(folder)} in {printable(self.root)} cannot be read ({error.strerror or error}); change "
                "its permissions or remove it"
            ) from error
        return found

    def _sort(self, entry: os.DirEntry[str], found: Listing, suffixes: frozenset[str]) -> None:
        suffix = suffix_of(entry.name)
        if entry.name.startswith(".") or entry.name in _SYSTEM:
            found.hidden.append(entry.name)
        elif entry.is_dir():
            found.folders.append(entry.name)
        elif suffix in suffixes:  # if a link leads nowhere, the image counts as one that cannot be read
            found.images.append(entry.name)
            if entry.is_symlink():
                found.links.add(entry.name)
        elif not suffix and entry.is_symlink() and not os.path.exists(entry.path):
            raise DataError(
                f"{self.relative(entry.path)} in {printable(self.root)} is a link that leads nowhere; mend or remove it"
            )
        else:
            found.others.append(entry.name)

    def leave_out(self, listing: Listing) -> None:
        """Count what is not an image in a folder."""
        self.left_out["hidden"] += len(listing.hidden)
        for name in listing.others:
            self.left_out[suffix_of(name) or "without suffix"] += 1

    def foreign(self, folder: str) -> str | None:
        """Name a file below a folder that is an image of a kind that is not read, if there is one."""
        for place, listing in self.walk(folder):
            for name in listing.others:
                if suffix_of(name) in FOREIGN_SUFFIXES or _opens(os.path.join(place, name)):
                    return os.path.join(place, name)
        return None


def printable(path: str) -> str:
    """A path as text, whatever bytes its names are of."""
    return os.fsencode(path).decode("utf-8", "replace")


def few(names: list[str]) -> str:
    """The first names of a list."""
    return ", ".join(names[:_EXAMPLES]) + (", …" if len(names) > _EXAMPLES else "")


def _opens(path: str) -> bool:
    import PIL.Image

    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with PIL.Image.open(path):
            return True
    except Exception:  # decoders raise whatever they like on what is no image
        return False
