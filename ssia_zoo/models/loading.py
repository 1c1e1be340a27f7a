"""Load models from safetensors files only: registered and timm names, folders, Hub repositories.

If a folder or repository has no model.safetensors, timm falls back to other files (pickles, which it reads with
weights_only), and it does not check a checkpoint's tensors if the number of classes changes. So everything is fetched
and checked here first; timm then gets a local folder or a safetensors file.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import timm
from timm.models import PretrainedCfg, get_pretrained_cfg, is_model

from ssia_zoo.errors import ConfigError, HubError, SSIAZooError, WeightError, did_you_mean, one_line
from ssia_zoo.hub.files import CONFIG, WEIGHTS, read_model_config
from ssia_zoo.hub.folder import check_loadable
from ssia_zoo.models.features import TimmModel
from ssia_zoo.models.label_names import set_problem_type
from ssia_zoo.models.registry import register, vanilla_architecture, weights
from ssia_zoo.timm_names import safe_alternatives

_log = logging.getLogger(__name__)

_REPOSITORY = re.compile(r"(?P<repo_id>[\w.-]+/[\w.-]+)(?:@(?P<revision>.+))?", re.ASCII)
_OTHER_WEIGHTS = ("pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "pretrained_strict")
_PICKLE = "pytorch_model.bin"  # timm's default file name


def load_model(name: str, *, pretrained: bool = True, **kwargs: Any) -> TimmModel:
    """Create a timm model with its weights, from safetensors files only.

    Args:
        name: A registered name ("mobilenetv3_small_050_ssia"), any other timm name ("resnet50.a1_in1k"), a folder in
            the Hub's layout (its path, or "local-dir:FOLDER"), or a repository on the Hub ("org/name", "org/name@rev"
            or "hf-hub:org/name@rev"). A plain name means timm's model, "./name" the folder.
        pretrained: Whether to load the weights; else only architecture and configuration are used.
        **kwargs: Arguments of `timm.create_model`, such as `num_classes`, `in_chans` or `drop_rate`.

    Returns:
        The model, in train mode as timm leaves it.

    Raises:
        ConfigError: If there is no such model, or it does not accept these arguments.
        WeightError: If its weights are offered as pickles only, are damaged, or do not match its architecture.
        HubError: If the weights are not in the cache, and cannot be downloaded.
    """
    if other := [key for key in _OTHER_WEIGHTS if key in kwargs]:
        raise ConfigError(f"{other[0]} is not supported; to load other weights, pass their folder as the model's name")
    return create_checked(timm_name(name, pretrained=pretrained), pretrained=pretrained, **kwargs)


def create_checked(source: str, *, pretrained: bool = True, **kwargs: Any) -> TimmModel:
    """Create the model that `timm_name` returned; arguments and errors are those of `load_model`."""
    if pretrained and ":" not in source and not _is_ours(source):
        kwargs["pretrained_cfg_overlay"] = _safetensors_of(source)
    try:
        model = timm.create_model(source, pretrained=pretrained, **kwargs)
        if source.startswith("local-dir:"):
            set_problem_type(model, read_model_config(Path(source.removeprefix("local-dir:")) / CONFIG))
        return model
    except SSIAZooError:
        raise
    except Exception as error:  # timm and the models raise any kind
        raise ConfigError(f"{source}: cannot be created: {type(error).__name__}: {one_line(error)}") from error


def timm_name(name: str, *, pretrained: bool = True) -> str:
    """Resolve a model's name, download it if it is on the Hub, and check it.

    Args:
        name: As in `load_model`.
        pretrained: Whether the weights are needed too.

    Returns:
        A registered name, or "local-dir:FOLDER" for a folder or repository. The folder of a repository is that of one
        commit in the Hub client's cache.

    Raises:
        SSIAZooError: As `load_model`.
    """
    kind, _, rest = name.partition(":")
    if not name or (kind == "local-dir" and not rest):  # Path("") would be the current folder
        raise ConfigError(_unknown(name))
    if kind == "local-dir":
        return _folder(rest, pretrained)
    if kind in ("hf-hub", "hf_hub"):
        return _repository(rest, pretrained)
    if is_model(name) or (_is_ours(name) and (is_model(vanilla_architecture(name)) or not Path(name).is_dir())):
        if Path(name).is_dir():
            _log.warning("%s means the registered model; for the folder of this name use ./%s", name, name)
        if _is_ours(name):
            register(vanilla_architecture(name))
        else:
            _cfg(name)
        return name
    if name.startswith((".", "/", "~", "\\")) or Path(name).is_dir():
        return _folder(name, pretrained)
    if _REPOSITORY.fullmatch(name):
        try:
            return _repository(name, pretrained)
        except HubError as error:
            raise HubError(f"there is no folder {name}, and as a repository: {error}") from error
    raise ConfigError(_unknown(name))


def _is_ours(name: str) -> bool:
    return "/" not in name and ":" not in name and name.split(".", 1)[0].endswith("_ssia")


def _folder(path: str, pretrained: bool) -> str:
    try:
        folder = Path(path).expanduser()
    except RuntimeError as error:  # "~name" of no user
        raise ConfigError(f"there is no folder {path}: {one_line(error)}") from error
    if not folder.is_dir():
        siblings = [p.name for p in folder.parent.iterdir() if p.is_dir()] if folder.parent.is_dir() else []
        hint = did_you_mean(folder.name, siblings, f"expected one with {CONFIG} and {WEIGHTS}", most=1)
        raise ConfigError(f"there is no folder {folder}; {hint}")
    check_loadable(folder, weights=pretrained)
    return f"local-dir:{folder}"


def _repository(name: str, pretrained: bool) -> str:
    from ssia_zoo.hub import fetch_files

    parts = _REPOSITORY.fullmatch(name)
    if parts is None:
        raise ConfigError(f"{name!r} is not a repository; expected org/name or org/name@revision")
    files = (CONFIG, WEIGHTS) if pretrained else (CONFIG,)
    folder = fetch_files(parts["repo_id"], files, revision=parts["revision"])
    check_loadable(folder, weights=pretrained)
    return f"local-dir:{folder}"


def _safetensors_of(name: str) -> dict[str, Any]:
    """Fetch the safetensors file of one of timm's own names; return the overlay of its configuration that names it."""
    from ssia_zoo.hub import fetch_files

    cfg = _cfg(name)
    if cfg is None or not cfg.has_weights:
        raise WeightError(f"timm has no weights for {name}; use pretrained=False, or one of timm.list_pretrained()")
    if cfg.file and str(cfg.file).endswith(".safetensors"):
        return {"file": cfg.file}
    if cfg.hf_hub_id and cfg.custom_load != "hf":
        wanted = cfg.hf_hub_filename or _PICKLE
        found = wanted if wanted.endswith(".safetensors") else next(iter(safe_alternatives(wanted)), None)
        if found:
            repo_id, _, revision = cfg.hf_hub_id.partition("@")
            folder = fetch_files(repo_id, (found,), revision=revision or None)
            return {"file": str(folder / found), "custom_load": False}
    raise WeightError(
        f"timm has no safetensors file for {name}, and SSIA Zoo loads no other files; choose another of its tags "
        "(timm.list_pretrained() lists them), or load it with timm and use the folder that timm.models.save_for_hf "
        "writes"
    )


def _cfg(name: str) -> PretrainedCfg | None:
    try:
        return get_pretrained_cfg(name)
    except RuntimeError as error:  # a tag that timm lacks
        raise ConfigError(_unknown(name)) from error


def _unknown(name: str) -> str:
    arch, _, tag = name.partition(".")
    if tag and is_model(arch):
        known = timm.list_pretrained(f"{arch}.*")
        otherwise = f"expected one of {', '.join(known)}" if known else f"it has none for {arch}"
        return f"timm {timm.__version__} has no weights {name!r}; {did_you_mean(name, known, otherwise)}"
    otherwise = did_you_mean(
        arch, timm.list_models(), "expected a published weight, a timm name, a folder, or hf-hub:org/name"
    )
    return f"there is no model {name!r}; {did_you_mean(name, [*weights(), *timm.list_models()], otherwise)}"
