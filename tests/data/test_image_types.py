"""Which files are images."""

from __future__ import annotations

from ssia_zoo.data.image_types import image_suffixes


def test_image_suffixes_are_those_that_pillow_decodes() -> None:
    assert {".jpg", ".png", ".avif", ".jfif", ".jp2", ".webp", ".mpo", ".tif"} <= image_suffixes()
    assert not {".pdf", ".eps", ".mpg", ".h5", ".txt", ""} & image_suffixes()
