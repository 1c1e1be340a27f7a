"""Where runs of a plan go: GPUs by number, or the CPU."""

from __future__ import annotations

import os

import torch

CPU = "cpu"


def find_devices() -> list[str]:
    """Return the GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them; ["cpu"] if there are none."""
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "y") or not torch.cuda.is_available():
        return [CPU]
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return visible or [str(number) for number in range(torch.cuda.device_count())]


def environment(device: str) -> dict[str, str]:
    """Return the environment of a run: one device, and one thread on a CPU."""
    own = {"ACCELERATE_USE_CPU": "true"} if device == CPU else {"CUDA_VISIBLE_DEVICES": device}
    return {**os.environ, **own, "OMP_NUM_THREADS": "1"}
