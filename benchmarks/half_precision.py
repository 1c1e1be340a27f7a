"""Read a run's weights as the float16 file that is published."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save


def half_precision(path: Path) -> bytes:
    """Return the content of a safetensors file with its floating-point tensors in float16."""
    tensors = {name: t.half() if t.is_floating_point() else t for name, t in load_file(path).items()}
    content: bytes = save(tensors, metadata={"format": "pt"})
    return content
