"""Finding and reading image files, in this process and in workers."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssia_zoo.data.preprocessing import Preprocessing
from ssia_zoo.errors import ConfigError, DataError
from ssia_zoo.inference.images import (
    Batch,
    ImageReader,
    check_loading,
    find_images,
    load_batches,
    read_image,
)

PREPROCESSING = Preprocessing(input_size=(3, 16, 16), mean=(0.5,) * 3, std=(0.5,) * 3)
PIXELS = np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8)


class Numbered(ImageReader):
    """Returns the number in a file's name and the process that reads it."""

    def __call__(self, path: Path) -> tuple[torch.Tensor, str | None]:
        if path.stem == "killer":
            os.kill(os.getpid(), signal.SIGKILL)
        if path.stem == "damaged":
            raise DataError("is damaged")
        return torch.tensor([int(path.stem), os.getpid()]), "made grey" if path.stem == "3" else None


def numbered(names: list[str], *, batch_size: int = 2, workers: int = 0) -> list[Batch]:
    paths = [Path(f"{name}.png") for name in names]
    return list(load_batches(paths, Numbered(PREPROCESSING), batch_size=batch_size, workers=workers))


def image(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 30, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def skipped() -> list[tuple[Path, str]]:
    return []


def test_a_folder_is_searched_recursively_in_order(tmp_path: Path, skipped: list) -> None:
    files = [image(tmp_path / name) for name in ("a/2.png", "a/b/1.JPG", "c.webp")]
    for other in (".hidden.png", ".cache/x.png"):
        image(tmp_path / other)
    (tmp_path / "note.txt").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    assert find_images([tmp_path], lambda *what: skipped.append(what)) == files
    assert skipped == []


def test_a_file_of_any_name_is_listed_once(tmp_path: Path, skipped: list) -> None:
    file = tmp_path / "no-suffix"
    image(tmp_path / "x.png").rename(file)
    found = find_images([file, tmp_path, file], lambda *what: skipped.append(what))
    assert found == [file]
    assert [path for path, _ in skipped] == [tmp_path]


def test_a_missing_path_and_an_empty_folder_are_skipped(tmp_path: Path, skipped: list) -> None:
    assert find_images([tmp_path / "nowhere", tmp_path], lambda *what: skipped.append(what)) == []
    assert "no such file" in skipped[0][1]
    assert "contains no images" in skipped[1][1]


@pytest.mark.parametrize(
    ("mode", "read"), [("L", "L"), ("P", "RGB"), ("CMYK", "RGB"), ("RGBA", "RGBA"), ("1", "L"), ("LA", "RGBA")]
)
def test_any_mode_is_read_with_the_channels_it_has(mode: str, read: str, tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    Image.fromarray(PIXELS).convert(mode).save(path)
    assert read_image(path).mode == read
    assert ImageReader(PREPROCESSING).prepare(read_image(path))[0].shape == PREPROCESSING.input_size


def test_sixteen_bits_are_scaled_and_exif_rotation_applied(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 6), 65535, dtype=np.uint16)).save(tmp_path / "deep.png")
    assert read_image(tmp_path / "deep.png").getpixel((0, 0)) == 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").size == (40, 30)


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n broken"])
def test_a_damaged_file_is_an_error_of_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_files_are_read_in_order_and_the_others_reported(workers: int) -> None:
    batches = numbered(["0", "damaged", "2", "3", "4", "damaged", "damaged"], workers=workers)
    assert [path.stem for batch in batches for path in batch.paths] == ["0", "2", "3", "4"]
    images = [batch.images for batch in batches if batch.images is not None]
    assert torch.cat(images)[:, 0].tolist() == [0, 2, 3, 4]
    assert [batch.images is None for batch in batches] == [False, False, False, True]
    skipped = [(path.stem, reason) for batch in batches for path, reason in batch.skipped]
    assert skipped == [("damaged", "is damaged")] * 3
    assert [batch.conversions for batch in batches] == [set(), {"made grey"}, set(), set()]


def test_workers_read_the_files_unless_there_is_one_batch() -> None:
    def readers(batches: list[Batch]) -> set[int]:
        return {int(pid) for batch in batches if batch.images is not None for pid in batch.images[:, 1]}

    assert readers(numbered(["1", "2", "3"], batch_size=3, workers=2)) == {os.getpid()}
    assert readers(numbered(["1", "2", "3"], batch_size=2, workers=0)) == {os.getpid()}
    pids = readers(numbered(["1", "2", "3"], batch_size=1, workers=2))
    assert len(pids) == 2
    assert os.getpid() not in pids


def test_a_worker_that_ends_is_an_error_of_one_line() -> None:
    with pytest.raises(DataError, match=r"worker ended: .*lower `workers` \(now 1; 0 needs none\)") as caught:
        numbered(["1", "2", "killer"], workers=1)
    assert "\n" not in str(caught.value)


def test_inputs_are_those_of_the_preprocessing(tmp_path: Path) -> None:
    path = image(tmp_path / "x.png")
    (batch,) = load_batches([path], ImageReader(PREPROCESSING), batch_size=1, workers=0)
    assert torch.equal(batch.images, PREPROCESSING.transform()(Image.open(path))[None])


@pytest.mark.parametrize("numbers", [{"batch_size": 0, "workers": 0}, {"batch_size": 1, "workers": -1}])
def test_numbers_that_are_too_low_are_errors(numbers: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"`(batch_size|workers)` is .*at least"):
        check_loading(**numbers)


def test_links_to_folders_are_followed_and_each_folder_is_read_once(tmp_path: Path, skipped: list) -> None:
    image(tmp_path / "elsewhere" / "1.png")
    own = image(tmp_path / "photos" / "own" / "0.png")
    (tmp_path / "photos" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "own" / "above").symlink_to(tmp_path / "photos")
    found = find_images([tmp_path / "photos"], lambda *what: skipped.append(what))
    assert found == [tmp_path / "photos" / "linked" / "1.png", own]
    assert skipped == []


def test_a_strip_that_would_become_too_large_is_skipped_in_one_line(tmp_path: Path) -> None:
    preprocessing = Preprocessing(input_size=(3, 224, 224), mean=(0.5,) * 3, std=(0.5,) * 3)
    strip, other = tmp_path / "strip.png", image(tmp_path / "other.png")
    Image.new("L", (1, 4000)).save(strip)
    (batch,) = load_batches([strip, other], ImageReader(preprocessing), batch_size=2, workers=0)
    expected = "is too narrow: resized for the model, its 1x4000 pixels become 224x896000, more than 178956970; crop it"
    assert (batch.paths, batch.skipped) == ([other], [(strip, expected)])


def test_the_limit_of_the_resized_image_can_be_set() -> None:
    reader = ImageReader(PREPROCESSING)
    strip = Image.new("RGB", (2, 100))
    assert reader.prepare(strip, 16 * 800)[0].shape == (3, 16, 16)
    with pytest.raises(DataError, match="its 2x100 pixels become 16x800, more than 12799"):
        reader.prepare(strip, 16 * 800 - 1)
