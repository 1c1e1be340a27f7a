"""SSIA Zoo: timm models trained with Self-Supervised Implicit Attention, identical to vanilla at inference.

Importing registers an entry point `<arch>_ssia` in timm's registry for each architecture that has a published weight;
it writes nothing and asks no network.

    import timm, ssia_zoo
    model = timm.create_model("mobilenetv3_small_050_ssia", pretrained=True)
"""

from __future__ import annotations

from typing import Any

from ssia_zoo.version import __version__

__all__ = ["__version__", "register", "weights"]

default_cfgs: dict[str, Any] = {}  # timm reads an entry point's configurations from its module, by this name

from ssia_zoo.models.registry import register, register_published, weights  # noqa: E402  # needs default_cfgs above

register_published()
