"""Register `<arch>_ssia` in timm: for each architecture with a published weight, and for any other on request."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from warnings import warn

import timm
from timm.models import (
    PretrainedCfg,
    generate_default_cfgs,
    get_pretrained_cfg,
    is_model,
    model_entrypoint,
    register_model,
)
from torch import nn

from ssia_zoo.errors import ConfigError, HashError, WeightError, did_you_mean
from ssia_zoo.models.weight import PublishedWeight, check_default, read_published_weight
from ssia_zoo.resources import resource_dir

_PACKAGE = "ssia_zoo"  # for `timm.list_models(module="ssia_zoo")`
_ARCHITECTURE_FIELDS = ("first_conv", "classifier", "fixed_input_size")  # the same for all weights
_HUB_FILE = "model.safetensors"
_SOURCES = ("file", "url", "state_dict", "hf_hub_id")

_weights: dict[str, PublishedWeight] = {}
"""Published weights by full name; filled on import."""
_skipped: dict[str, str] = {}
"""Names of invalid files of hub_configs/, and what is wrong with them."""


def weights() -> dict[str, PublishedWeight]:
    """Return the published weights by full name, such as "resnet50_ssia.c10_r32"."""
    return dict(_weights)


def skipped_weights() -> dict[str, str]:
    """Return which files of hub_configs/ were skipped, and why; empty if all are valid."""
    return dict(_skipped)


def published_weight(name: str) -> PublishedWeight | None:
    """Return the published weight of a name with tag, or the default one of a name without; None if there is none."""
    by_default = (weight for weight in _weights.values() if weight.default and weight.arch_name == name)
    return _weights.get(name) or next(by_default, None)


def find_weight(name: str) -> PublishedWeight:
    """Return the published weight of a name, with or without tag.

    Args:
        name: "resnet50_ssia.c10_r32", or "resnet50_ssia" for the architecture's default weight.

    Raises:
        ConfigError: If no weight has this name; suggests the nearest.
    """
    if (weight := published_weight(name)) is not None:
        return weight
    if name in _skipped:
        raise ConfigError(f"the description of {name} is not valid: {_skipped[name]}; reinstall ssia-zoo")
    known = dict.fromkeys([*_weights, *(weight.arch_name for weight in _weights.values())])
    hint = did_you_mean(name, known, f"expected one of {', '.join(sorted(_weights))}", cutoff=0.5)
    raise ConfigError(f"there is no published weight {name!r}; {hint}")


def register(arch: str) -> str:
    """Register `<arch>_ssia` for a timm architecture, unless it is registered already.

    Args:
        arch: Name of a timm architecture, without tag, such as "convnext_tiny".

    Returns:
        The registered name.

    Raises:
        ConfigError: If timm has no such architecture.
    """
    name = f"{arch}_ssia"
    if not is_model(name):
        _register(arch, [])
    return name


def register_published(folder: Path | None = None) -> None:
    """Register an entry point for each architecture that has a weight in a folder (hub_configs/ if None).

    Files that are not valid, or of an architecture that timm lacks, are skipped with a warning.
    """
    folder = folder or resource_dir("hub_configs")
    found = []
    for path in sorted(folder.glob("[!.]*.json")):
        try:
            found.append(read_published_weight(path))
        except ConfigError as error:
            _skip(path.stem, str(error))
    for arch in sorted({weight.architecture for weight in found}):
        of_arch = [weight for weight in found if weight.architecture == arch]
        try:
            check_default(folder, of_arch)
        except ConfigError as error:
            _warn(f"{error}; {arch}_ssia without a tag has no weight")
            of_arch = [replace(weight, default=False) for weight in of_arch]
        try:
            _register(arch, of_arch)
        except ConfigError as error:
            for weight in of_arch:
                _skip(weight.name, str(error))
            continue
        _weights.update({weight.name: weight for weight in of_arch})


def _skip(name: str, reason: str) -> None:
    _skipped[name] = reason
    _warn(f"the weight {name} is skipped: {reason}; reinstall ssia-zoo, or correct the file")


def _warn(message: str) -> None:
    warn(message, stacklevel=4)


def vanilla_architecture(name: str) -> str:
    """Return a model name's timm architecture: "resnet50" for "resnet50_ssia.c10_r32" and "resnet50.a1_in1k"."""
    arch = name.split(".", 1)[0]
    return arch.removesuffix("_ssia")


def architecture_cfg(arch: str, input_size: tuple[int, int, int] | None = None) -> PretrainedCfg:
    """Make a pretrained_cfg that describes an architecture, and none of timm's weights for it.

    A copy of timm's would include its licence, papers, origin and test sizes.

    Args:
        arch: Name of a timm architecture.
        input_size: Channels, height, width; the architecture's own if None.
    """
    base = get_pretrained_cfg(arch) or PretrainedCfg()
    size = input_size or base.input_size
    pool_size = None
    if base.pool_size is not None:
        pool_size = tuple(
            max(1, pool * new // old)
            for pool, new, old in zip(base.pool_size, size[1:], base.input_size[1:], strict=True)
        )
    own = {field: getattr(base, field) for field in _ARCHITECTURE_FIELDS}
    cfg = PretrainedCfg(architecture=arch, input_size=size, pool_size=pool_size, **own)
    if input_size is None:
        same = ("num_classes", "mean", "std", "interpolation", "crop_pct", "crop_mode", "min_input_size")
        cfg = replace(cfg, **{field: getattr(base, field) for field in same})
    return cfg


def weight_path(weight: PublishedWeight, cache_dir: str | Path | None = None) -> Path:
    """Find a published weight in the package or on the Hub, and verify it.

    Raises:
        WeightError: If the file is missing or its sha256 is not the published one.
        HubError: If it cannot be downloaded.
    """
    from ssia_zoo.hub import fetch
    from ssia_zoo.hub.hashes import differing_sha256  # imported here to keep `import ssia_zoo` fast

    if weight.file is not None:
        embedded = resource_dir("hub_configs") / weight.file
        if not embedded.is_file():
            raise WeightError(f"{embedded} is missing; the installation is damaged: reinstall ssia-zoo")
        if (actual := differing_sha256(embedded, str(weight.sha256))) is not None:
            raise HashError(
                f"{embedded} is damaged: its sha256 is {actual[:12]}…, expected {str(weight.sha256)[:12]}…; "
                "reinstall ssia-zoo"
            )
        return embedded
    return fetch(
        str(weight.repo_id),
        _HUB_FILE,
        revision=str(weight.revision),
        sha256=str(weight.repo_sha256),
        cache_dir=cache_dir,
    )


def _register(arch: str, published: Sequence[PublishedWeight]) -> None:
    if not is_model(arch):
        hint = did_you_mean(arch, timm.list_models(), "timm.list_models() lists them")
        raise ConfigError(f"timm {timm.__version__} has no architecture {arch!r}; {hint}")
    name = f"{arch}_ssia"
    by_tag = {weight.tag: weight for weight in published}
    cfgs = {weight.tag: _weight_cfg(weight) for weight in sorted(published, key=lambda weight: not weight.default)}
    module: Any = sys.modules[_PACKAGE]
    keyed = {f"{name}.{tag}": cfg for tag, cfg in cfgs.items()} or {name: architecture_cfg(arch)}
    module.default_cfgs.update(generate_default_cfgs(keyed))
    entrypoint = _entrypoint(arch, by_tag, cfgs)
    setattr(module, name, entrypoint)
    register_model(entrypoint)


def _weight_cfg(weight: PublishedWeight) -> PretrainedCfg:
    where = (
        {"file": str(resource_dir("hub_configs") / weight.file)}
        if weight.file
        else {"hf_hub_id": f"{weight.repo_id}@{weight.revision}", "hf_hub_filename": _HUB_FILE}
    )
    return replace(
        architecture_cfg(weight.architecture, weight.input_size),
        **where,
        tag=weight.tag,
        num_classes=weight.num_classes,
        label_names=weight.label_names,
        mean=weight.mean,
        std=weight.std,
        interpolation=weight.interpolation,
        crop_pct=weight.crop_pct,
        crop_mode=weight.crop_mode,
        license=weight.license,
        description=weight.description,
        notes=(f"trained on {weight.dataset.name}: {weight.dataset.terms}",),
    )


def _entrypoint(
    arch: str, published: dict[str, PublishedWeight], cfgs: dict[str, PretrainedCfg]
) -> Callable[..., nn.Module]:
    """Make the function that timm calls: it calls the vanilla one with the weight's configuration.

    The configuration is resolved here, since timm would resolve None or a tag by the vanilla name, and silently load
    vanilla weights.
    """
    name = f"{arch}_ssia"
    default_tag = next((tag for tag, weight in published.items() if weight.default), None)

    def create(
        pretrained: bool = False,
        pretrained_cfg: str | dict[str, Any] | PretrainedCfg | None = None,
        pretrained_cfg_overlay: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> nn.Module:
        overlaid = any((pretrained_cfg_overlay or {}).get(source) for source in _SOURCES)
        tag = pretrained_cfg or default_tag
        cfg: Any
        if isinstance(tag, str):
            if tag not in cfgs:
                known = ", ".join(f"{name}.{tag}" for tag in cfgs) or "none"
                raise ConfigError(f"{name} has no tag {tag!r}; its published weights: {known}")
            cfg = cfgs[tag]
            if pretrained and not overlaid:  # verify the file, which timm would not
                path = weight_path(published[tag], cache_dir=kwargs.get("cache_dir"))
                cfg = replace(cfg, file=str(path), hf_hub_id=None, hf_hub_filename=None)
            elif overlaid:  # timm would prefer the weight's own file
                cfg = replace(cfg, file=None, hf_hub_id=None, hf_hub_filename=None)
        elif tag is None:
            cfg = architecture_cfg(arch)
            if pretrained and not overlaid:
                have = ", ".join(sorted(_weights)) or "none"
                raise WeightError(f"{name} has no published weight; use pretrained=False, or one of: {have}")
        else:  # the caller's configuration, as timm allows
            cfg = tag if isinstance(tag, PretrainedCfg) else PretrainedCfg(**tag)
        create_vanilla = model_entrypoint(arch)
        model: nn.Module = create_vanilla(
            pretrained=pretrained, pretrained_cfg=cfg, pretrained_cfg_overlay=pretrained_cfg_overlay, **kwargs
        )
        return model

    create.__name__ = create.__qualname__ = name
    create.__module__ = _PACKAGE
    create.__doc__ = f"timm's {arch}, with SSIA-trained weights where published."
    return create
