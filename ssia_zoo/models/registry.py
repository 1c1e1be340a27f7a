"""Entry points in timm's registry: `<arch>_ssia` for every architecture with a weight, and for any other on demand."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from difflib import get_close_matches
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

from ssia_zoo.errors import ConfigError, HashError, WeightError
from ssia_zoo.models.weight import HubConfig, check_default, read_hub_config
from ssia_zoo.resources import resource_dir

_PACKAGE = "ssia_zoo"  # timm's registry shows our names as `timm.list_models(module="ssia_zoo")`
_FACTS = ("first_conv", "classifier", "fixed_input_size")  # facts of an architecture, whatever its weights
_HUB_FILE = "model.safetensors"
_SOURCES = ("file", "url", "state_dict", "hf_hub_id")

_weights: dict[str, HubConfig] = {}
"""Published weights by full name; filled once, on import."""
_skipped: dict[str, str] = {}
"""Descriptions that could not be used, by name, and why."""


def weights() -> dict[str, HubConfig]:
    """Published weights by full name, e.g. "resnet50_ssia.c10_r32"."""
    return dict(_weights)


def skipped_weights() -> dict[str, str]:
    """What keeps descriptions of published weights from being used, by their files' names; empty where all is sound."""
    return dict(_skipped)


def published_weight(name: str) -> HubConfig | None:
    """Find the published weight of a name with a tag, or without for the default one; None if there is none."""
    by_default = (config for config in _weights.values() if config.default and config.arch_name == name)
    return _weights.get(name) or next(by_default, None)


def register(arch: str) -> str:
    """Register `<arch>_ssia` for a timm architecture; does nothing if it is registered.

    Args:
        arch: Name of a timm architecture, without tag, e.g. "convnext_tiny".

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
    """Register an entry point for each architecture that has a weight in a folder; this package's hub_configs/ if None.

    A description that is not valid, or of an architecture that timm lacks, is skipped with a warning.
    """
    folder = folder or resource_dir("hub_configs")
    configs = []
    for path in sorted(folder.glob("*.json")):
        try:
            configs.append(read_hub_config(path))
        except ConfigError as error:
            _skip(path.stem, str(error))
    for arch in sorted({config.architecture for config in configs}):
        of_arch = [config for config in configs if config.architecture == arch]
        try:
            check_default(folder, of_arch)
        except ConfigError as error:
            _warn(f"{error}; {arch}_ssia without a tag is no weight")
            of_arch = [replace(config, default=False) for config in of_arch]
        try:
            _register(arch, of_arch)
        except ConfigError as error:
            for config in of_arch:
                _skip(config.name, str(error))
            continue
        _weights.update({config.name: config for config in of_arch})


def _skip(name: str, reason: str) -> None:
    _skipped[name] = reason
    _warn(f"the weight {name} is skipped: {reason}; reinstall ssia-zoo, or correct the file")


def _warn(message: str) -> None:
    warn(message, stacklevel=4)


def vanilla_architecture(name: str) -> str:
    """The timm architecture behind a model name: "resnet50" for "resnet50_ssia.c10_r32" and for "resnet50.a1_in1k"."""
    arch = name.split(".", 1)[0]
    return arch.removesuffix("_ssia")


def architecture_cfg(arch: str, input_size: tuple[int, int, int] | None = None) -> PretrainedCfg:
    """A fresh pretrained_cfg that holds the facts of an architecture alone, nothing of timm's weights for it.

    A copy of timm's would bring its licence, papers, origin and test sizes along.

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
    facts = {fact: getattr(base, fact) for fact in _FACTS}
    cfg = PretrainedCfg(architecture=arch, input_size=size, pool_size=pool_size, **facts)
    if input_size is None:
        same = ("num_classes", "mean", "std", "interpolation", "crop_pct", "crop_mode", "min_input_size")
        cfg = replace(cfg, **{field: getattr(base, field) for field in same})
    return cfg


def weight_path(config: HubConfig, cache_dir: str | Path | None = None) -> Path:
    """Find a published weight, embedded in the package or on the Hub, and verify it.

    Raises:
        WeightError: If the file is missing or its sha256 is not the published one.
        HubError: If it has to be fetched and the Hub does not give it.
    """
    from ssia_zoo.hub import fetch
    from ssia_zoo.hub.hashes import differing_sha256  # only where bytes are asked for: importing us stays cheap

    if config.file is not None:
        embedded = resource_dir("hub_configs") / config.file
        if not embedded.is_file():
            raise WeightError(f"{embedded} is missing; the installation is damaged: reinstall ssia-zoo")
        if (actual := differing_sha256(embedded, str(config.sha256))) is not None:
            raise HashError(
                f"{embedded} is damaged: its sha256 is {actual[:12]}…, published was {str(config.sha256)[:12]}…; "
                "reinstall ssia-zoo"
            )
        return embedded
    return fetch(
        str(config.repo_id),
        _HUB_FILE,
        revision=str(config.revision),
        sha256=str(config.repo_sha256),
        cache_dir=cache_dir,
    )


def _register(arch: str, configs: Sequence[HubConfig]) -> None:
    if not is_model(arch):
        near = get_close_matches(arch, timm.list_models(), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "timm.list_models() lists them"
        raise ConfigError(f"timm {timm.__version__} has no architecture {arch!r}; {hint}")
    name = f"{arch}_ssia"
    by_tag = {config.tag: config for config in configs}
    cfgs = {config.tag: _weight_cfg(config) for config in sorted(configs, key=lambda c: not c.default)}
    module: Any = sys.modules[_PACKAGE]
    keyed = {f"{name}.{tag}": cfg for tag, cfg in cfgs.items()} or {name: architecture_cfg(arch)}
    module.default_cfgs.update(generate_default_cfgs(keyed))
    entrypoint = _entrypoint(arch, by_tag, cfgs)
    setattr(module, name, entrypoint)
    register_model(entrypoint)


def _weight_cfg(config: HubConfig) -> PretrainedCfg:
    where = (
        {"file": str(resource_dir("hub_configs") / config.file)}
        if config.file
        else {"hf_hub_id": f"{config.repo_id}@{config.revision}", "hf_hub_filename": _HUB_FILE}
    )
    return replace(
        architecture_cfg(config.architecture, config.input_size),
        **where,
        tag=config.tag,
        num_classes=config.num_classes,
        label_names=config.label_names,
        mean=config.mean,
        std=config.std,
        interpolation=config.interpolation,
        crop_pct=config.crop_pct,
        crop_mode=config.crop_mode,
        license=config.license,
        description=config.description,
        notes=(f"trained on {config.dataset.name}: {config.dataset.terms}",),
    )


def _entrypoint(arch: str, configs: dict[str, HubConfig], cfgs: dict[str, PretrainedCfg]) -> Callable[..., nn.Module]:
    """Make the function that timm calls: the vanilla one, handed our configuration.

    timm would resolve a missing or textual configuration by the vanilla name and silently load vanilla weights, so it
    is always resolved here.
    """
    name = f"{arch}_ssia"
    default_tag = next((tag for tag, config in configs.items() if config.default), None)

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
            if pretrained and not overlaid:  # verified here; timm would load whatever lies there
                path = weight_path(configs[tag], cache_dir=kwargs.get("cache_dir"))
                cfg = replace(cfg, file=str(path), hf_hub_id=None, hf_hub_filename=None)
        elif tag is None:
            cfg = architecture_cfg(arch)
            if pretrained and not overlaid:
                have = ", ".join(sorted(_weights)) or "none"
                raise WeightError(f"{name} has no published weight; pass pretrained=False, or take one of: {have}")
        else:  # the caller's own configuration, as timm allows
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
