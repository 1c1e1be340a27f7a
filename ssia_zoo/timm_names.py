"""Names that timm uses without offering a public list of them."""

from __future__ import annotations

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
CROP_MODES = ("center", "squash", "border")
