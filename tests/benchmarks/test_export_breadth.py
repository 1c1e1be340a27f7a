"""Models of many timm families export with parity."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from ssia_zoo.export.exporter import export_model
from tests.benchmarks.scripts import BENCHMARKS, load_script

SIZE = 64

pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "test_vit",
        "test_convnext",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("test_efficientnet", "test_nfnet", "mobilenetv3_small_050", "test_mambaout")
        ),
    ],
)
def test_small_models_of_many_families_export_with_parity(name: str, tmp_path: Path) -> None:
    model = load_script("export_breadth").randomized_model(name)
    size = None if model.pretrained_cfg.get("fixed_input_size") else SIZE
    result = export_model("onnx", model, name, tmp_path / "m.onnx", image_size=size)
    assert result.manifest["parity"]["top1_agreement"] == 1


class Clamps(torch.nn.Module):
    """Two branches, each clamped twice with different limits, as in timm's gemma4_vit."""

    num_classes = 4

    def __init__(self) -> None:
        super().__init__()
        self.pretrained_cfg = timm.get_pretrained_cfg("test_vit").to_dict() | {"input_size": (3, 8, 8)}
        self.linear = torch.nn.Linear(192, 4)
        for number, limit in enumerate((0.9, 0.6, 0.7, 0.4)):
            self.register_buffer(f"limit{number}", torch.tensor(limit))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.linear(x.flatten(1))
        one = x.clamp(-self.limit0, self.limit0).clamp(-self.limit1, self.limit1)
        return one * x.clamp(-self.limit2, self.limit2).clamp(-self.limit3, self.limit3)


def test_consecutive_clamps_keep_their_limits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    result = export_model("onnx", Clamps().eval(), "clamps", tmp_path / "m.onnx", image_size=8, weights="random")
    assert result.manifest["parity"]["max_abs_error"] < 1e-5


def small(name: str) -> Any:
    """A small model with five-dimensional attention; those of timm are large."""
    stages = {"num_classes": 5, "embed_dims": (16, 32, 64), "num_heads": (1, 2, 4), "depths": (1, 1, 1)}
    four = {"embed_dims": (16, 32, 64, 128), "num_heads": (1, 2, 4, 8), "depths": (1, 1, 1, 1)}
    made = {
        "nest_tiny": lambda: timm.models.nest.Nest(img_size=SIZE, **stages),
        "twins_svt_small": lambda: timm.models.twins.Twins(img_size=SIZE, wss=(4, 4, 4, 4), **stages | four),
        "hiera_tiny_224": lambda: timm.models.hiera.Hiera((SIZE, SIZE), embed_dim=16, stages=(1, 1, 1, 1)),
    }
    torch.manual_seed(0)
    model = made[name]()
    model.pretrained_cfg = timm.get_pretrained_cfg(name).to_dict()
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["nest_tiny", *(pytest.param(name, marks=pytest.mark.slow) for name in ("twins_svt_small", "hiera_tiny_224"))],
)
def test_five_dimensional_attention_exports_and_the_model_is_not_changed(name: str, tmp_path: Path) -> None:
    model = small(name)
    before = [getattr(module, "fused_attn", None) for module in model.modules()]
    assert any(before)
    result = export_model("onnx", model, name, tmp_path / "m.onnx", image_size=SIZE)
    assert result.manifest["parity"]["top1_agreement"] == 1
    assert [getattr(module, "fused_attn", None) for module in model.modules()] == before


def families() -> list[tuple[str, str]]:
    path = BENCHMARKS / "results" / "smallest_models.json"
    return list(json.loads(path.read_text())["models"].items()) if path.is_file() else []


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("family", "name"), families())
def test_the_smallest_model_of_every_family_exports_or_is_recorded_as_failing(family: str, name: str) -> None:
    breadth = load_script("export_breadth")
    known = breadth.read_results().get((family, "onnx"))
    outcome = breadth.run_child(["onnx"], name, timeout=900)["onnx"]
    if known is not None and not known["ok"] and not outcome["ok"]:
        pytest.xfail(known["reason"])
    assert outcome["ok"], outcome
