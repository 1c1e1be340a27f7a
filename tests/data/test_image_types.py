"""Which files are images."""

from __future__ import annotations

from ssia_zoo.data.image_types import image_suffixes


def test_the_suffixes_are_of_what_pillow_opens() -> None:
    assert {".jpg", ".png", ".avif", ".jfif", ".jp2", ".webp", ".mpo", ".tif"} <= image_suffixes()
    assert not {".pdf", ".eps", ".mpg", ".h5", ".txt", ""} & image_suffixes()
