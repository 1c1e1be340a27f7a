"""Names that timm offers no public import for: lists it keeps in its code, and functions of its private modules.

No other module of this package imports from a private module of timm. When a timm release moves or removes one of the
functions, tests/test_timm_names.py fails with instructions.
"""

from __future__ import annotations

from timm.models._hub import _get_safe_alternatives as safe_alternatives
from timm.models._hub import save_config_for_hf

__all__ = ["CROP_MODES", "INTERPOLATIONS", "safe_alternatives", "save_config_for_hf"]

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
CROP_MODES = ("center", "squash", "border")
