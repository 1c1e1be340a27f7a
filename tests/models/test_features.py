"""Stage maps of timm classifiers: which are chosen, and that model and logits do not change."""

from __future__ import annotations

import contextlib
import copy
import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
import timm
import torch
from timm.models import _registry
from torch import nn

from ssia_zoo.errors import ConfigError
from ssia_zoo.loss.ssia import SSIAConfig
from ssia_zoo.models.features import evaluating, forward_stages, stage_indices, stage_shapes
from ssia_zoo.task import SSIATask

# Model, arguments, expected indices.
STAGES: list[tuple[str, dict[str, Any], list[int]]] = [
    ("test_resnet", {}, [1, 2, 3, 4]),  # a CNN's first map is its stem
    ("resnet18", {}, [1, 2, 3, 4]),
    ("resnet26", {"output_stride": 8}, [1, 2, 3, 4]),  # the last three stages have one size, and stay three
    ("test_efficientnet", {}, [1, 2, 3, 4]),
    ("test_byobnet", {}, [1, 2, 3, 4]),
    ("test_nfnet", {}, [1, 2, 3, 4]),
    ("mobilenetv3_small_050", {}, [1, 2, 3, 4]),
    ("vgg11", {}, [2, 3, 4, 5]),
    ("test_convnext", {}, [0, 1, 2, 3]),  # no map of the stem
    ("test_mambaout", {}, [0, 1, 2, 3]),
    ("swin_tiny_patch4_window7_224", {}, [0, 1, 2, 3]),
    ("nest_tiny", {}, [0, 1, 2]),  # three stages
    ("levit_128s", {}, [0, 1, 2]),
    ("test_vit", {}, [0, 2, 3, 5]),  # six blocks of one size
    ("deit_tiny_patch16_224", {}, [2, 5, 8, 11]),  # twelve
    ("vit_tiny_r_s16_p8_224", {}, [2, 5, 8, 11]),
    ("test_vit", {"depth": 2}, [0, 1]),
    ("vitamin_small_224", {}, [2, 6, 9, 13]),  # plain and hierarchical: blocks of one size after two stages
]
# Model, arguments, image size; with drop_rate and drop_path_rate, so that the random state matters in train mode.
SMALL: dict[str, tuple[dict[str, Any], int]] = {
    "test_resnet": ({}, 64),
    "test_efficientnet": ({}, 64),
    "test_convnext": ({}, 64),
    "test_byobnet": ({}, 64),
    "test_nfnet": ({}, 64),
    "test_mambaout": ({}, 64),
    "test_vit": ({"img_size": 64}, 64),
    "resnet18": ({}, 32),
    "mobilenetv3_small_050": ({}, 64),
    "swin_tiny_patch4_window7_224": ({"img_size": 56, "depths": (1, 1, 1, 1), "embed_dim": 24}, 56),
    "vit_tiny_r_s16_p8_224": ({"img_size": 128, "depth": 4}, 128),
    "levit_128s": ({}, 224),
}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Such small models run faster with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_model(name: str) -> tuple[Any, tuple[int, int, int]]:
    """Return a small model and its input size."""
    torch.manual_seed(0)
    args, size = SMALL[name]
    drop = {"drop_rate": 0.2} if name == "levit_128s" else {"drop_rate": 0.2, "drop_path_rate": 0.2}
    return timm.create_model(name, num_classes=7, **drop, **args), (3, size, size)


@pytest.mark.parametrize(("name", "args", "expected"), STAGES)
def test_indices_are_ends_of_stages_or_evenly_spaced(name: str, args: dict[str, Any], expected: list[int]) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, **args)
    assert stage_indices(model) == expected


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", SMALL)
def test_logits_are_those_of_the_model_and_maps_are_measured(name: str, training: bool) -> None:
    model, size = make_model(name)
    twin = copy.deepcopy(model)
    model.train(training)
    twin.train(training)
    images = torch.randn(2, *size)
    indices = stage_indices(model)
    torch.manual_seed(1)
    expected = twin(images)
    random_state = torch.get_rng_state()
    torch.manual_seed(1)
    logits, maps = forward_stages(model, images, indices)
    assert torch.equal(logits, expected)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), twin.state_dict().values(), strict=True))
    assert [tuple(feature.shape[1:]) for feature in maps] == stage_shapes(model, indices, size)


def test_shapes_follow_the_image_size() -> None:
    model, _ = make_model("test_resnet")
    shapes = stage_shapes(model, [1, 2, 3, 4], (3, 64, 96))
    assert shapes == [(32, 16, 24), (48, 8, 12), (192, 4, 6), (96, 2, 3)]


@pytest.mark.parametrize("name", ["test_resnet", "test_byobnet", "test_vit"])
def test_measuring_shapes_changes_nothing(name: str) -> None:
    model, size = make_model(name)
    model.train()
    frozen = next(module for module in model.modules() if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)))
    frozen.eval()
    modes = [module.training for module in model.modules()]
    state = copy.deepcopy(model.state_dict())
    random_state = torch.get_rng_state()
    stage_shapes(model, stage_indices(model), size)
    assert [module.training for module in model.modules()] == modes
    assert not frozen.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_modes_come_back_after_an_error() -> None:
    model, _ = make_model("test_resnet")
    model.layer1.eval()
    modes = [module.training for module in model.modules()]
    with contextlib.suppress(ZeroDivisionError), evaluating(model):
        assert not any(module.training for module in model.modules())
        raise ZeroDivisionError
    assert [module.training for module in model.modules()] == modes


def test_a_model_of_lower_precision_is_measured_in_it() -> None:
    model, size = make_model("test_vit")
    assert stage_shapes(model.bfloat16(), [0, 2], size) == [(64, 4, 4), (64, 4, 4)]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (lambda: timm.create_model("test_resnet", num_classes=0), r"ResNet has no classifier \(num_classes=0\)"),
        (lambda: timm.create_model("test_vit", depth=1), "VisionTransformer has too few stages"),
        (lambda: nn.Linear(3, 2), "Linear has no forward_intermediates"),
        (lambda: timm.create_model("test_resnet", features_only=True), "no forward_intermediates"),
    ],
)
def test_a_model_without_stages_or_classifier_is_refused(model: Any, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        stage_indices(model())


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("vit_tiny_r_s16_p8_224", (3, 64, 64)),
        ("test_vit", (1, 64, 64)),
        ("test_resnet", (1, 64, 64)),
        ("levit_128s", (3, 96, 96)),
    ],
)
def test_images_that_a_model_cannot_take_are_refused(name: str, size: tuple[int, int, int]) -> None:
    model, _ = make_model(name)
    model.train()
    with pytest.raises(ConfigError, match="cannot take images of size " + "x".join(map(str, size))) as refused:
        stage_shapes(model, stage_indices(model), size)
    assert "\n" not in str(refused.value)
    assert all(module.training for module in model.modules())


# timm's families whose models are encoders only. Others must work, those of a newer timm too.
WITHOUT_CLASSIFIER = {"deepseek_vit", "gemma4_vit", "qwen3_vit"}
_SMALL_WORDS = (
    "test",
    "atto",
    "femto",
    "pico",
    "nano",
    "xxtiny",
    "xxs",
    "tiny",
    "ti",
    "xs",
    "t",
    "s",
    "small",
    "b0",
    "0",
)
_CANDIDATES = 4


def by_apparent_size(name: str) -> tuple[Any, ...]:
    """Sort key: test models first, then words for small sizes, then the first number in the name."""
    words = name.split("_")
    rank = min((_SMALL_WORDS.index(word) for word in words if word in _SMALL_WORDS), default=len(_SMALL_WORDS))
    return not name.startswith("test_"), rank, [int(number) for number in re.findall(r"\d+", name)][:1], len(name), name


def smallest_model(family: str) -> str:
    """Return the model with the fewest parameters times pixels among those whose names suggest a small size."""
    names = _registry._module_to_models[family] - _registry._deprecated_models.keys()
    sizes = {}
    for name in sorted(names, key=by_apparent_size)[:_CANDIDATES]:
        with torch.device("meta"):
            model = timm.create_model(name)
        pixels = math.prod(model.pretrained_cfg["input_size"])
        sizes[name] = pixels * sum(parameter.numel() for parameter in model.parameters())
    return min(sizes, key=lambda name: (sizes[name], name))


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(_registry._module_to_models.keys() - {"ssia_zoo"}))  # timm's own
def test_every_timm_family_trains_with_every_signal(family: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(smallest_model(family), **({} if family in WITHOUT_CLASSIFIER else {"num_classes": 7}))
    if family in WITHOUT_CLASSIFIER:
        with pytest.raises(ConfigError, match="no classifier"):
            SSIATask(model)
        return
    vanilla = {name: (value.shape, value.dtype) for name, value in model.state_dict().items()}
    size = model.pretrained_cfg["input_size"]
    task = SSIATask(model, SSIAConfig(channel=1, spatial=1))
    images = torch.randn(2, *size)

    task.eval()
    with torch.no_grad():
        assert torch.equal(task.trainable_module(images)[0], model(images))

    task.train()
    result = task(images, torch.tensor([1, 2]))
    result["loss"].backward()
    assert {"semantic", "channel", "spatial"} <= result.keys()
    for name, parameter in task.trainable_module.projection.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name
    assert {name: (v.shape, v.dtype) for name, v in task.get_eval_model().state_dict().items()} == vanilla
