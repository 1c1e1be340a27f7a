"""What a run was trained and evaluated on, told in a few lines that a later run can be compared with."""

from __future__ import annotations

import os
from hashlib import sha256
from typing import Any

import datasets

from ssia_zoo.data.images import ImageData
from ssia_zoo.data.encoded import StoredImages, stored_images, stored_labels
from ssia_zoo.data.streaming import ImageStream


def data_identity(data: ImageData) -> dict[str, Any]:
    """Tell data sets apart: how many images, of which classes, and a digest of their names, sizes and labels.

    Nothing is decoded. The digest is the same in every process, and from another folder or mount point; it changes
    when an image is added, removed, renamed, relabelled, or replaced by one of another size. Of a stream, whose
    images are not at hand, it covers the number of images alone.

    Returns:
        "train_images" and "eval_images", "label_names" (a list), "train_digest" and "eval_digest" (hexadecimal);
        JSON takes it as it is.
    """
    return {
        "train_images": len(data.train),
        "eval_images": len(data.eval),
        "label_names": list(data.label_names),
        "train_digest": _digest(data.train, data.image_column, data.label_column),
        "eval_digest": _digest(data.eval, data.image_column, data.label_column),
    }


def _digest(rows: datasets.Dataset | ImageStream, image_column: str, label_column: str) -> str:
    if isinstance(rows, ImageStream):
        return sha256(f"stream of {len(rows)}".encode()).hexdigest()
    images = stored_images(rows, image_column)
    labels = stored_labels(rows, label_column)
    digest = sha256()
    for name, size, label in zip(_names(images), images.sizes().tolist(), labels.tolist(), strict=True):
        digest.update(f"{name}\0{size}\0{label}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _names(images: StoredImages) -> list[str]:
    """Names of images; of files, their paths below the deepest folder that holds all of them."""
    files = images.files()
    root = os.path.commonpath([os.path.dirname(file) for file in files]) if files else ""
    return [
        (os.path.relpath(path, root) if length < 0 else os.path.basename(path)).replace(os.sep, "/") if path else ""
        for path, length in zip(images.paths, images.lengths.tolist(), strict=True)
    ]
