"""Every part of the package prepares an image as timm does, whatever a model's configuration."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from timm.data.loader import adapt_to_chs

from ssia_zoo.data import DataConfig, eval_loader, load_image_data
from ssia_zoo.data.preprocessing import (
    Preprocessing,
    model_preprocessing,
    with_default_preprocessing,
)
from ssia_zoo.errors import ConfigError
from ssia_zoo.evaluation import validate as validation
from ssia_zoo.evaluation.validate import validate
from ssia_zoo.export.images import data_config, parity_images
from ssia_zoo.inference.classifier import Classifier
from ssia_zoo.timm_names import CROP_MODES, INTERPOLATIONS
from tests.helpers.data_folders import AB, IMAGE, parquet, rows

SIZES = ((3, 32, 32), (3, 24, 40), (1, 32, 32))
KINDS = [
    {"interpolation": interpolation, "crop_mode": mode, "crop_pct": crop, "input_size": size}
    for interpolation, mode, crop, size in product(INTERPOLATIONS, CROP_MODES, (1.0, 0.875), SIZES)
]
STATISTICS: dict[str, Any] = {"mean": (0.3, 0.4, 0.6), "std": (0.2, 0.25, 0.3)}


def wide() -> Image.Image:
    """An image of 96 x 32 pixels."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 96, 3), dtype=np.uint8))


def model_of(kind: dict[str, Any]) -> Any:
    channels = kind["input_size"][0]
    cfg = {**kind, **{name: values[:channels] for name, values in STATISTICS.items()}}
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=2, in_chans=channels, pretrained_cfg_overlay=cfg)


def as_timm_does(model: Any, image: Image.Image) -> torch.Tensor:
    config = resolve_model_data_config(model)
    if config["input_size"][0] == 1:
        image = image.convert("L")
    return create_transform(**config, is_training=False)(image)


@pytest.fixture(scope="module")
def wide_data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    columns = {"image": [wide(), wide()], "label": [0, 1]}
    part = rows(columns, image=IMAGE, label=AB)
    return replace(parquet(tmp_path_factory.mktemp("wide"), train=part, test=part), image_size=None)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind.values())))
def test_evaluation_prediction_and_export_prepare_an_image_as_timm_does(
    kind: dict[str, Any], wide_data: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(kind)
    expected = as_timm_does(model, wide())
    assert expected.shape == kind["input_size"]
    assert torch.equal(Classifier(model).prepare(wide()), expected)
    config = data_config(model, None)
    assert torch.equal(Preprocessing(**config).transform()(wide()), expected)
    assert config == {name: resolve_model_data_config(model)[name] for name in config}

    seen: list[torch.Tensor] = []

    def evaluate(model: Any, batches: Any, *_: Any, **__: Any) -> dict[str, float]:
        seen.extend(images for images, _ in batches)
        return {}

    monkeypatch.setattr(validation, "evaluate", evaluate)
    validate(model, wide_data)
    assert torch.equal(seen[0][0], expected)


@pytest.mark.parametrize("field", ["interpolation", "crop_mode", "crop_pct", "input_size", "mean", "std"])
def test_each_field_changes_the_pixels(field: str) -> None:
    one = Preprocessing(input_size=(3, 32, 32), **STATISTICS, crop_pct=0.8)
    other = {
        "interpolation": "bilinear",
        "crop_mode": "squash",
        "crop_pct": 0.9,
        "input_size": (3, 32, 40),
        "mean": (0.5,) * 3,
        "std": (0.5,) * 3,
    }
    changed = replace(one, **{field: other[field]})
    assert not torch.equal(one.transform()(wide()), changed.transform()(wide()))


def test_settings_replace_the_models_preprocessing() -> None:
    model = model_of({"interpolation": "bilinear", "crop_mode": "squash", "crop_pct": 0.9, "input_size": (3, 24, 40)})
    own = model_preprocessing(model, DataConfig("digits"))
    assert own == model_preprocessing(model)
    assert (own.interpolation, own.crop_mode, own.crop_pct) == ("bilinear", "squash", 0.9)
    for given in ({"interpolation": "box"}, {"crop_mode": "border"}, {"crop_pct": 1.0}):
        assert model_preprocessing(model, DataConfig("digits", **given)) == replace(own, **given)
    for size, sides in ((48, (48, 48)), ((48, 64), (48, 64))):
        sized = model_preprocessing(model, DataConfig("digits", image_size=size))
        assert sized == replace(own, input_size=(3, *sides))
        assert sized.applied_to(DataConfig("digits")).image_size == size


def test_unset_settings_get_the_defaults_of_training_from_scratch(wide_data: DataConfig) -> None:
    config = with_default_preprocessing(DataConfig("digits", crop_pct=0.9))
    assert (config.interpolation, config.crop_pct, config.crop_mode) == ("bicubic", 0.9, "center")
    assert with_default_preprocessing(config) is config
    sized = replace(wide_data, image_size=32)
    data = load_image_data(sized)
    ((images, _),) = eval_loader(data, sized, **STATISTICS)
    expected = Preprocessing(input_size=(3, 32, 32), **STATISTICS).transform()(wide())
    assert torch.equal(images[0], expected)


def test_one_mean_for_three_channels_and_three_for_one() -> None:
    grey = model_preprocessing(timm.create_model("test_resnet", in_chans=1, pretrained_cfg_overlay=STATISTICS))
    assert grey.mean == pytest.approx((1.3 / 3,))
    assert grey.std == pytest.approx((0.25,))
    single = timm.create_model("test_resnet", pretrained_cfg_overlay={"mean": (0.5,), "std": (0.25,)})
    assert (model_preprocessing(single).mean, model_preprocessing(single).std) == ((0.5,) * 3, (0.25,) * 3)


def test_a_number_of_channels_that_no_image_has_is_refused() -> None:
    with pytest.raises(ConfigError, match="2 channels; expected 1"):
        model_preprocessing(timm.create_model("test_resnet", in_chans=2)).transform()


def test_the_mean_for_other_channels_is_that_of_timms_loader() -> None:
    for channels in (1, 4):
        model = timm.create_model("test_resnet", in_chans=channels, pretrained_cfg_overlay=STATISTICS)
        found = model_preprocessing(model)
        assert found.mean == pytest.approx(adapt_to_chs(STATISTICS["mean"], channels))
        assert found.std == pytest.approx(adapt_to_chs(STATISTICS["std"], channels))


def test_validation_of_a_model_of_one_channel_gets_grey_images(tmp_path: Path) -> None:
    coloured = wide()
    grey = coloured.convert("L").convert("RGB")
    results = []
    for name, image in (("coloured", coloured), ("grey", grey)):
        part = rows({"image": [image, image], "label": [0, 1]}, image=IMAGE, label=AB)
        config = replace(parquet(tmp_path / name, train=part, test=part), image_size=None)
        results.append(validate(timm_grey(), config))
    assert results[0] == results[1]


def timm_grey() -> Any:
    torch.manual_seed(0)
    return timm.create_model("test_resnet", in_chans=1, num_classes=2)


def test_an_input_that_the_model_cannot_take_is_refused_in_one_line(wide_data: DataConfig) -> None:
    model = timm.create_model(
        "test_vit", num_classes=2, pretrained_cfg_overlay={"input_size": (3, 20, 20)}, img_size=64
    )
    with pytest.raises(ConfigError, match="VisionTransformer cannot take images of size 3x20x20") as caught:
        validate(model, wide_data)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="cannot take images of size 3x24x24"):
        validate(model, replace(wide_data, image_size=24))


def test_export_prepares_its_images_as_timm_does(tmp_path: Path) -> None:
    wide().save(tmp_path / "wide.png")
    model = model_of({"interpolation": "bilinear", "crop_mode": "squash", "crop_pct": 0.9, "input_size": (3, 24, 40)})
    (pixels,) = parity_images(data_config(model, None), tmp_path, 1).pixels
    assert torch.equal(torch.from_numpy(pixels), as_timm_does(model, wide()))


def test_all_preprocessings_of_timms_classifiers_are_tested() -> None:
    cfgs = [timm.get_pretrained_cfg(name) for name in timm.list_pretrained()]
    kinds = {(cfg.interpolation, cfg.crop_mode) for cfg in cfgs if cfg.num_classes}
    assert ("bicubic", "squash") in kinds
    assert kinds <= set(product(INTERPOLATIONS, CROP_MODES))


@pytest.mark.parametrize("crop_mode", CROP_MODES)
@pytest.mark.parametrize("input_size", [(3, 32, 32), (3, 24, 48)])
@pytest.mark.parametrize("size", [(64, 64), (100, 10), (10, 100), (3, 60)])
def test_the_size_before_the_crop_is_that_of_the_transform(
    crop_mode: str, input_size: tuple[int, int, int], size: tuple[int, int]
) -> None:
    preprocessing = Preprocessing(
        input_size=input_size, mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=0.9, crop_mode=crop_mode
    )
    resize = preprocessing.transform().transforms[2]  # type: ignore[attr-defined]
    expected = resize(Image.new("RGB", size)).size
    assert preprocessing.resized(*size) == pytest.approx(expected, abs=1)  # torchvision rounds down
