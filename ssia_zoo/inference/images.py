"""Find, decode and preprocess image files, in worker processes if there are many."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import PIL.Image
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ssia_zoo.data.config import MAX_PIXELS
from ssia_zoo.data.decode import decode_image
from ssia_zoo.data.image_types import image_suffixes, suffix_of
from ssia_zoo.data.loader import start_worker
from ssia_zoo.data.preprocessing import ConvertMode, Preprocessing
from ssia_zoo.errors import ConfigError, DataError, one_line

Skip = Callable[[Path, str], None]
"""Called with each path that is skipped and the reason, in one line."""

_MOST_WORKERS = 8


def find_images(paths: Sequence[Path], skip: Skip) -> list[Path]:
    """List image files: files as given, and the images in folders, recursively and sorted by path.

    Hidden files and folders inside a folder are left out. Links are followed, and each folder is read once. A file
    given twice is listed once.

    Args:
        paths: Files and folders.
        skip: Called for a path that does not exist and for a folder without images.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            inside = sorted(_images_below(path, skip))
            if not inside:
                skip(path, f"contains no images; looked for {' '.join(sorted(image_suffixes()))}")
            found |= dict.fromkeys(inside)
        elif path.is_file():
            found[path] = None
        else:
            skip(path, "no such file or folder")
    return list(found)


def _images_below(folder: Path, skip: Skip) -> Iterator[Path]:
    suffixes, seen = image_suffixes(), set()

    def unreadable(error: OSError) -> None:
        skip(Path(error.filename), f"cannot be read: {error.strerror}")

    for place, folders, files in os.walk(folder, followlinks=True, onerror=unreadable):
        status = os.stat(place)
        if (inode := (status.st_dev, status.st_ino)) in seen:  # a link to a folder above, or two to the same one
            folders.clear()
            continue
        seen.add(inode)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if suffix_of(name) in suffixes and not name.startswith(".") and (file := Path(place, name)).is_file():
                yield file


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> PIL.Image.Image:
    """Decode an image of any mode (palette, CMYK, 16 bits, …) to 8-bit L, RGB or RGBA, rotated as its EXIF data says.

    Args:
        path: Image file.
        max_pixels: As in `decode_image`.

    Raises:
        DataError: If the file cannot be read or is not an image; the message does not name the path.
    """
    try:
        return decode_image({"path": None, "bytes": path.read_bytes()}, max_pixels)
    except OSError as error:
        reason = "not an image, or damaged" if isinstance(error, PIL.UnidentifiedImageError) else one_line(error, 200)
        raise DataError(f"cannot be read: {error.strerror or reason}") from error
    except Exception as error:  # decoders raise any exception on damaged files
        raise DataError(f"cannot be decoded: {one_line(error, 200)}") from error


class ImageReader:
    """Reads image files as a model's input; worker processes get a copy."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self._preprocessing = preprocessing
        self._transform = preprocessing.transform()
        self._convert = ConvertMode(preprocessing.input_size[0])

    def prepare(self, image: PIL.Image.Image, max_pixels: int = MAX_PIXELS) -> tuple[Tensor, str | None]:
        """Transform an image of any 8-bit mode.

        Args:
            image: The image.
            max_pixels: Most pixels of the resized image, before it is cropped to the model's input.

        Returns:
            The normalized input [C, H, W], and what the conversion to the model's channels changes, if anything.

        Raises:
            DataError: If the image is so narrow that resizing its short side makes it larger than `max_pixels`.
        """
        self._preprocessing.check_resized(image, max_pixels)
        return self._transform(image), self._convert.loss(image.mode)

    def __call__(self, path: Path) -> tuple[Tensor, str | None]:
        """Read a file; see `prepare` and `read_image`."""
        return self.prepare(read_image(path))


class Batch(NamedTuple):
    """The images of some files."""

    paths: list[Path]
    """Files that could be read."""
    images: Tensor | None
    """Their inputs [B, C, H, W]; None if no file could be read."""
    skipped: list[tuple[Path, str]]
    """The other files, and the reason of each."""
    conversions: set[str]
    """What the conversion to the model's channels changes."""


def load_batches(paths: Sequence[Path], reader: ImageReader, *, batch_size: int, workers: int) -> Iterator[Batch]:
    """Read files in order.

    Args:
        paths: Image files.
        reader: How to read a file.
        batch_size: Files per batch, at least 1.
        workers: Number of data loading processes; 0 reads in this process, as do files for one batch.

    Raises:
        DataError: If a worker ends, for example because memory is short.
    """
    workers = 0 if len(paths) <= batch_size else min(workers, -(-len(paths) // batch_size))
    loader: DataLoader[Batch] = DataLoader(
        _Files(paths),  # type: ignore[arg-type]  # the batches are made by _read_files
        batch_size,
        num_workers=workers,
        collate_fn=partial(_read_files, reader),
        worker_init_fn=start_worker,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # else iter(loader) draws from the global generator
    )
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(
            f"a data loading worker ended: {one_line(error, 200)}; lower `workers` (now {workers}; 0 needs none) if "
            "memory or /dev/shm is short"
        ) from error


def default_workers() -> int:
    """Return a number of data loading processes for this machine: its cores, at most 8."""
    return min(os.cpu_count() or 1, _MOST_WORKERS)


def check_loading(batch_size: int, workers: int) -> None:
    """Check settings of `load_batches`.

    Raises:
        ConfigError: If a number is too low.
    """
    for name, value, least in (("batch_size", batch_size, 1), ("workers", workers, 0)):
        if value < least:
            raise ConfigError(f"`{name}` is {value}; expected at least {least}")


class _Files(Dataset[Path]):
    """Paths; the files are read in `_read_files`, which knows the batch."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Path:
        return self.paths[index]


def _read_files(reader: ImageReader, paths: Sequence[Path]) -> Batch:
    readable, images, skipped, conversions = [], [], [], set()
    for path in paths:
        try:
            image, conversion = reader(path)
        except DataError as error:
            skipped.append((path, str(error)))
            continue
        readable.append(path)
        images.append(image)
        if conversion is not None:
            conversions.add(conversion)
    return Batch(readable, torch.stack(images) if images else None, skipped, conversions)
