"""Publishing the weights of hub_configs/: each as a repository of one organization, noted in its JSON afterwards."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import timm
from safetensors.torch import load_file

from ssia_zoo.data.preprocessing import Preprocessing
from ssia_zoo.errors import ConfigError, HubError, WeightError, one_line
from ssia_zoo.hub import file_sha256, publish
from ssia_zoo.models.card import weight_card
from ssia_zoo.models.registry import architecture_cfg, weight_path
from ssia_zoo.models.saving import write_model_folder
from ssia_zoo.models.weight import HubConfig, read_hub_config, read_hub_configs
from ssia_zoo.resources import resource_dir

_log = logging.getLogger(__name__)
_COMMIT_URL = re.compile(r".*/commit/([0-9a-f]{40})")


@dataclass(frozen=True, kw_only=True)
class Published:
    """Where one weight is now."""

    name: str
    """as registered with timm"""
    repo_id: str
    revision: str
    """the commit, which holds weights, configuration and card"""
    repo_sha256: str
    """of the repository's model.safetensors"""
    url: str
    """of the commit"""

    def __str__(self) -> str:
        return f"{self.name}: {self.url}"


def write_weight_folder(config: HubConfig, folder: Path, *, repo_id: str | None = None) -> Path:
    """Write a weight as a publishable folder: config.json, model.safetensors (float32), README.md.

    The same weight gives the same bytes each time. Nothing of the weight's earlier publishing is in them.

    Args:
        config: The weight; its embedded file is read and verified, or the Hub's if there is none.
        folder: Where to; made if it does not exist, the three files in it are replaced.
        repo_id: Repository that the card names, ``org/name``.

    Returns:
        The folder; plain timm loads it as ``local-dir:FOLDER``.

    Raises:
        ConfigError: If the folder cannot be made.
        WeightError: If the file is missing, damaged, or not of the architecture that the description names.
        HubError: If it has to be fetched and the Hub does not give it.
    """
    path = weight_path(config)
    cfg = replace(architecture_cfg(config.architecture, config.input_size), num_classes=config.num_classes)
    model = timm.create_model(config.architecture, pretrained_cfg=cfg, num_classes=config.num_classes)
    try:
        model.load_state_dict(load_file(path))  # into float32; float16 was a loss of the file, not of this step
    except RuntimeError as error:
        raise WeightError(
            f"{path} does not hold a {config.architecture} of {config.num_classes} classes ({one_line(error)}); "
            f"correct architecture, num_classes or input_size in the description of {config.name}"
        ) from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be made a folder ({one_line(error)}); name another one") from error
    metrics = config.metrics
    write_model_folder(
        model,
        folder,
        architecture=config.architecture,
        label_names=config.label_names,
        preprocessing=Preprocessing(
            input_size=config.input_size,
            mean=config.mean,
            std=config.std,
            interpolation=config.interpolation,
            crop_pct=config.crop_pct,
            crop_mode=config.crop_mode,
        ),
        metadata={
            "name": config.name,
            "method": "ssia",
            "license": config.license,
            "dataset": asdict(config.dataset),
            "training": config.training,
            "evaluated_on": metrics.split,
            "evaluated_images": metrics.images,
            "metrics": {"top1": metrics.top1},
            "seed": metrics.seed,
            "runs": [asdict(run) for run in metrics.runs],
            "environment": config.environment,
        },
        card=weight_card(config, repo_id),
    )
    return folder


def publish_all(
    org: str,
    *,
    private: bool = False,
    token: str | None = None,
    endpoint: str | None = None,
    names: Sequence[str] | None = None,
    hub_configs: Path | None = None,
) -> list[Published]:
    """Publish weights as ``org/<arch>_ssia.<tag>``, and note repository, commit and sha256 in their JSONs.

    A JSON is written as soon as its weight is published, so a second call after a failure goes on where the first one
    stopped; what is published already and has not changed gets no new commit.

    Args:
        org: Organization or user on the Hub that the token may write to.
        private: As in `hub.publish`.
        token: As in `hub.publish`.
        endpoint: As in `hub.publish`.
        names: Full names of the weights, e.g. "resnet50_ssia.c10_r32"; all if None.
        hub_configs: Folder of the descriptions and their files; this checkout's hub_configs/ if None.

    Returns:
        Where each weight is, in the order of the names.

    Raises:
        ConfigError: If a description is not valid, a name is not among them, or a JSON cannot be written.
        WeightError: If a weight's file is not the described one.
        HubError: If a push fails; the message ends with the command that goes on.
    """
    folder = hub_configs or resource_dir("hub_configs")
    configs = {config.name: config for config in read_hub_configs(folder)}
    if unknown := [name for name in names or () if name not in configs]:
        raise ConfigError(f"{folder} has no weight {unknown[0]!r}; it has: {', '.join(configs) or 'none'}")
    wanted = [configs[name] for name in dict.fromkeys(configs if names is None else names)]
    repeat = shlex.join(["ssia-zoo", "publish", "--all", "--org", org, *(["--private"] if private else [])])
    if names is not None or hub_configs is not None:
        repeat = "the same call of publish_all"
    done = []
    for config in wanted:
        repo_id = f"{org}/{config.name}"
        with tempfile.TemporaryDirectory(prefix="ssia-zoo-") as room:
            weights = write_weight_folder(_found_in(folder, config), Path(room), repo_id=repo_id)
            url = publish(weights, repo_id, private=private, token=token, endpoint=endpoint, repeat=repeat)
            sha256 = file_sha256(weights / "model.safetensors")
        commit = _COMMIT_URL.fullmatch(url)
        if commit is None:
            raise HubError(f"{repo_id} is published, but the Hub names no commit: {url!r}; repeat with: {repeat}")
        item = Published(name=config.name, repo_id=repo_id, revision=commit[1], repo_sha256=sha256, url=url)
        _note(folder / f"{config.name}.json", item, repeat)
        _log.info("published %s", item)
        done.append(item)
    return done


def _found_in(folder: Path, config: HubConfig) -> HubConfig:
    """The description with its file's whole path, for a folder that need not be this package's."""
    return replace(config, file=str(folder.resolve() / config.file)) if config.file else config


def _note(path: Path, published: Published, repeat: str) -> None:
    """Write where a weight is into its JSON, whole or not at all; every other character stays as it is."""
    try:
        text = before = path.read_bytes().decode("utf-8")
        for field in ("repo_id", "revision", "repo_sha256"):
            text = _with_field(text, field, getattr(published, field))
        if text == before:
            return
        # A JSON must bear its weight's name to be valid, so the new one lies in a folder of its own until it is.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".publish-") as room:
            new = Path(room) / path.name
            new.write_bytes(text.encode("utf-8"))
            read_hub_config(new)
            shutil.copymode(path, new)
            os.replace(new, path)
    except OSError as error:
        raise ConfigError(
            f"{published.name} is published at {published.url}, but {path} cannot be written ({one_line(error)}); "
            f"make it writable and repeat with: {repeat}"
        ) from error


def _with_field(text: str, field: str, value: str) -> str:
    """A JSON object's text with another value of one of its own fields, which holds a string or null."""
    expected = {**json.loads(text), field: value}
    for match in re.finditer(rf'"{field}"\s*:\s*(null|"(?:[^"\\]|\\.)*")', text):
        changed = text[: match.start(1)] + json.dumps(value) + text[match.end(1) :]
        if json.loads(changed) == expected:  # else it is a field of that name further inside
            return changed
    raise ConfigError(f"field {field!r} is missing; expected it in every file of hub_configs/")
