"""FLOPs are those of the model, and peaks those of the device and precision."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from ssia_zoo.training.config import TrainConfig
from ssia_zoo.training.metrics import read_records
from ssia_zoo.training.utilization import named_peak, training_flops
from tests.helpers.runs import small_run


def test_the_flops_of_resnet18_are_three_forwards_without_the_gradient_of_the_image() -> None:
    model = timm.create_model("resnet18")
    forward, stem = 2 * 1.814e9, 2 * 0.118e9  # multiply-adds as published, times 2
    assert training_flops(model, (3, 224, 224)) == pytest.approx(3 * forward - stem, rel=0.002)
    assert next(model.parameters()).device.type == "cpu", "the model itself stays where it is"


def test_what_gradient_checkpointing_computes_again_does_not_count() -> None:
    model = timm.create_model("test_vit", img_size=32)
    plain = training_flops(model, (3, 32, 32))
    model.set_grad_checkpointing()
    assert training_flops(model, (3, 32, 32)) == plain
    assert model.grad_checkpointing


def test_a_model_whose_flops_cannot_be_counted_has_none() -> None:
    class Broken(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images * float(images.sum())  # needs a value, which the meta device does not have

    assert training_flops(Broken(), (3, 8, 8)) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("device", "settings", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", {"mixed_precision": "bf16"}, 989.4),
        ("NVIDIA H100 80GB HBM3", {}, 494.7),
        ("NVIDIA H100 80GB HBM3", {"tf32": False}, 66.9),
        ("NVIDIA H100 PCIe", {"mixed_precision": "fp16"}, 756),
        ("NVIDIA H100 NVL", {"mixed_precision": "bf16"}, 835),
        ("NVIDIA H200", {"mixed_precision": "bf16"}, 989),
        ("NVIDIA A100-SXM4-80GB", {"mixed_precision": "bf16"}, 312),
        ("NVIDIA L40S", {"mixed_precision": "bf16"}, 362),
        ("NVIDIA L4", {"mixed_precision": "bf16"}, 121),
        ("Tesla T4", {"mixed_precision": "fp16"}, 65),
        ("Tesla T4", {}, 8.1),
        ("NVIDIA L40", {"mixed_precision": "bf16"}, None),
        ("NVIDIA GeForce RTX 3060", {"mixed_precision": "bf16"}, None),
    ],
)
def test_the_peak_is_that_of_the_device_and_the_precision(
    device: str, settings: dict[str, object], teraflops: float | None
) -> None:
    peak = named_peak(device, TrainConfig(**settings))  # type: ignore[arg-type]
    assert peak == (None if teraflops is None else pytest.approx(1e12 * teraflops))


def test_records_state_speed_memory_and_waiting_and_mfu_where_the_peak_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = small_run(tmp_path / "unknown", max_steps=1)
    (record,) = (r for r in read_records(unknown.folder / "metrics.jsonl") if r["kind"] == "train")
    assert record["peak_memory_mb"] > 50
    assert 0 <= record["data_wait"] <= 1
    assert "mfu" not in record
    for module in ("progress", "run"):
        monkeypatch.setattr(f"ssia_zoo.training.{module}.peak_flops", lambda *_: 1e12)
    known = small_run(tmp_path / "known", max_steps=1)
    (record,) = (r for r in read_records(known.folder / "metrics.jsonl") if r["kind"] == "train")
    flops = training_flops(timm.create_model("test_resnet", num_classes=10), (3, 32, 32))
    assert flops is not None
    assert record["mfu"] == pytest.approx(record["images_per_second"] * flops / 1e12, abs=1e-4)


def test_the_gradients_of_a_step_include_those_of_the_training_heads(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet", num_classes=10)
    own = sum(parameter.numel() for parameter in model.parameters()) * 4 / 1e6
    found = {}
    for method in ("vanilla", "ssia"):
        run = small_run(tmp_path / method, max_steps=1, method=method)
        (record,) = (r for r in read_records(run.folder / "metrics.jsonl") if r["kind"] == "train")
        found[method] = record["gradient_mb"]
    assert found["vanilla"] == pytest.approx(own, abs=1e-3)
    assert found["ssia"] > own
