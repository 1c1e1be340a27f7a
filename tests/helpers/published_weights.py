"""Descriptions of published weights for tests."""

from __future__ import annotations

from typing import Any

from ssia_zoo.models.weight import DatasetTerms, Metrics, PairedRun, PublishedWeight


def weight_entry(architecture: str = "test_resnet", tag: str = "c10_r32", **changes: Any) -> PublishedWeight:
    """Describe a weight on the Hub with three seeds; the repository does not exist."""
    fields: dict[str, Any] = {
        "architecture": architecture,
        "tag": tag,
        "default": True,
        "description": f"{architecture}, trained for a test",
        "file": None,
        "sha256": None,
        "repo_id": f"org/{architecture}_ssia.{tag}",
        "revision": "a" * 40,
        "repo_sha256": "b" * 64,
        "num_classes": 3,
        "label_names": ("cat", "dog", "sea horse"),
        "input_size": (3, 32, 48),
        "mean": (0.5, 0.4, 0.3),
        "std": (0.25, 0.25, 0.25),
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "license": "apache-2.0",
        "dataset": DatasetTerms(
            name="CIFAR-10 (Krizhevsky)", source="uoft-cs/cifar10", license="unknown", terms="ask its authors"
        ),
        "training": {"model": architecture, "lr": 0.003, "scale": [0.7, 1.0], "ssia": {"weight": 0.5}},
        "environment": {"torch": "2.9.0", "machine": "1 GPU"},
        "metrics": Metrics(
            split="test",
            images=10000,
            seed=0,
            top1=71.25,
            control_top1=70.0,
            runs=(
                PairedRun(seed=0, ssia=71.25, vanilla=70.0),
                PairedRun(seed=1, ssia=70.5, vanilla=71.0),
                PairedRun(seed=2, ssia=72.0, vanilla=70.0),
            ),
        ),
    }
    return PublishedWeight(**(fields | changes))
