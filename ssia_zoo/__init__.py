"""SSIA Zoo: timm models trained with Self-Supervised Implicit Attention, identical to vanilla at inference.

Importing registers an entry point `<arch>_ssia` in timm for each architecture with a published weight. It writes no
files and uses no network.

    import timm, ssia_zoo
    model = timm.create_model("mobilenetv3_small_050_ssia", pretrained=True)
"""

from __future__ import annotations

from typing import Any

from ssia_zoo.version import __version__

__all__ = ["__version__", "register", "weights"]

default_cfgs: dict[str, Any] = {}  # timm looks configurations up by this name

from ssia_zoo.models.registry import register, register_published, weights  # noqa: E402  # needs default_cfgs

register_published()
