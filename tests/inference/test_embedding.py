"""Pooled features of image files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from ssia_zoo.errors import ConfigError, WeightError
from ssia_zoo.inference.embedding import Embedder


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return paths


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_features_are_what_the_classifier_takes(name: str, files: list[Path]) -> None:
    embedder = Embedder(timm.create_model(name, num_classes=7))
    done = list(embedder.embed(files, pytest.fail, batch_size=2))
    assert [one.path for one in done] == files
    features = np.stack([one.features for one in done])
    assert (features.dtype, features.shape) == (np.float32, (3, embedder.dimension))
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(embedder.model))
    with torch.inference_mode():
        logits = embedder.model(torch.stack([transform(Image.open(path)) for path in files]))
        classified = embedder.model.get_classifier()(torch.from_numpy(features))
    torch.testing.assert_close(classified, logits)


def test_a_model_without_classes_is_accepted(files: list[Path]) -> None:
    (done,) = Embedder(timm.create_model("test_resnet", num_classes=0)).embed(files[:1], pytest.fail)
    assert done.features.shape == (96,)


def test_an_unreadable_file_is_skipped(files: list[Path]) -> None:
    files[1].write_bytes(b"damaged")
    skipped: list[Path] = []
    done = Embedder(timm.create_model("test_resnet")).embed(files, lambda path, _: skipped.append(path))
    assert [one.path for one in done] == [files[0], files[2]]
    assert skipped == [files[1]]


def test_models_without_pooled_features_are_refused() -> None:
    with pytest.raises(ConfigError, match="not pooled"):
        Embedder(timm.create_model("test_resnet", num_classes=0, global_pool=""))
    with pytest.raises(ConfigError, match="no forward_features"):
        Embedder(torch.nn.Linear(1, 1))


def test_numbers_that_are_too_low_are_errors_before_any_image_is_read() -> None:
    embedder = Embedder(timm.create_model("test_resnet"))
    for numbers in ({"batch_size": 0}, {"workers": -1}):
        with pytest.raises(ConfigError, match="at least"):
            embedder.embed([], pytest.fail, **numbers)


def test_features_that_are_not_finite_are_an_error(files: list[Path]) -> None:
    embedder = Embedder(timm.create_model("test_resnet"))
    with torch.no_grad():
        for parameter in embedder.model.parameters():
            parameter.fill_(torch.nan)
    with pytest.raises(WeightError, match="NaN or infinite"):
        list(embedder.embed(files, pytest.fail))
