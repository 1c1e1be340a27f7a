"""Publish the weights of hub_configs/, each to a repository of one organization, and record where they are."""

from __future__ import annotations

import json
import logging
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import timm
from safetensors.torch import load_file

from ssia_zoo.data.preprocessing import Preprocessing
from ssia_zoo.errors import ConfigError, HubError, WeightError, one_line
from ssia_zoo.files import atomic_write
from ssia_zoo.hub import file_sha256, publish, update_collection
from ssia_zoo.hub.files import CONFIG, WEIGHTS
from ssia_zoo.hub.folder import EVAL_RESULTS, STATEMENT
from ssia_zoo.models.card import weight_card
from ssia_zoo.models.card_metadata import eval_results
from ssia_zoo.models.registry import architecture_cfg, weight_path
from ssia_zoo.models.saving import write_model_folder
from ssia_zoo.models.weight import PublishedWeight, parse_published_weight, read_published_weights
from ssia_zoo.resources import resource_dir

COLLECTION = "SSIA Zoo"
"""Title of the collection of all published weights."""

_DESCRIPTION = (
    "timm models trained with Self-Supervised Implicit Attention; each card shows every seed beside its control"
)
_log = logging.getLogger(__name__)
_COMMIT_URL = re.compile(r".*/commit/([0-9a-f]{40})")


@dataclass(frozen=True, kw_only=True)
class Published:
    """A weight on the Hub."""

    name: str
    """as registered with timm"""
    repo_id: str
    revision: str
    """the commit with weights, configuration and card"""
    repo_sha256: str
    """of the repository's model.safetensors"""
    url: str
    """of the commit"""

    def __str__(self) -> str:
        return f"{self.name}: {self.url}"


def holds_weight(folder: Path, weight: PublishedWeight) -> bool:
    """Whether a folder is what `write_weight_folder` wrote for a weight, and not a training run or another model."""
    try:
        described = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        return bool(described["ssia"]["name"] == weight.name)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_weight_folder(weight: PublishedWeight, folder: Path, *, repo_id: str | None = None) -> Path:
    """Write a weight as a publishable folder: config.json, model.safetensors (float32), README.md.

    If the weight's data is on the Hub, EVAL_RESULTS is written too. The files depend on the weight and `repo_id` only,
    not on where the weight was published before.

    Args:
        weight: The weight; its file is verified.
        folder: Folder to write to; created if missing, existing files are replaced.
        repo_id: Repository for the card's examples, ``org/name``.

    Returns:
        The folder; timm loads it as ``local-dir:FOLDER``.

    Raises:
        ConfigError: If the folder cannot be created.
        WeightError: If the file is missing or damaged, or does not match the described architecture.
        HubError: If the file cannot be downloaded.
    """
    path = weight_path(weight)
    cfg = replace(architecture_cfg(weight.architecture, weight.input_size), num_classes=weight.num_classes)
    model = timm.create_model(weight.architecture, pretrained_cfg=cfg, num_classes=weight.num_classes)
    try:
        model.load_state_dict(load_file(path))  # float16 values into float32 parameters: exact
    except RuntimeError as error:
        raise WeightError(
            f"{path} does not hold a {weight.architecture} of {weight.num_classes} classes ({one_line(error)}); "
            f"correct architecture, num_classes or input_size in the description of {weight.name}"
        ) from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot create the folder {folder} ({one_line(error)}); choose another one") from error
    metrics = weight.metrics
    write_model_folder(
        model,
        folder,
        architecture=weight.architecture,
        label_names=weight.label_names,
        preprocessing=Preprocessing(
            input_size=weight.input_size,
            mean=weight.mean,
            std=weight.std,
            interpolation=weight.interpolation,
            crop_pct=weight.crop_pct,
            crop_mode=weight.crop_mode,
        ),
        metadata={
            "name": weight.name,
            "method": "ssia",
            "license": weight.license,
            "dataset": asdict(weight.dataset),
            "training": weight.training,
            "evaluated_on": metrics.split,
            "evaluated_images": metrics.images,
            "metrics": {"top1": metrics.top1},
            "seed": metrics.seed,
            "runs": [asdict(run) for run in metrics.runs],
            "environment": weight.environment,
        },
        card=weight_card(weight, repo_id),
    )
    _write_eval_results(weight, folder / EVAL_RESULTS)
    return folder


def _write_eval_results(weight: PublishedWeight, path: Path) -> None:
    content = eval_results(weight)
    if content is None:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(exist_ok=True)
    with atomic_write(path) as new:
        new.write_text(content, encoding="utf-8")


def publish_all(
    org: str,
    *,
    private: bool = False,
    token: str | None = None,
    endpoint: str | None = None,
    names: Sequence[str] | None = None,
    hub_configs: Path | None = None,
    sign: Callable[[Path], object] | None = None,
    repeat: str = "the same call of publish_all",
    replace: bool = False,
    done: Callable[[Published], object] | None = None,
) -> list[Published]:
    """Publish weights as ``org/<arch>_ssia.<tag>``, and record repository, commit and sha256 in their JSON files.

    Each JSON is written as soon as its weight is published, so after a failure a second call continues. Weights that
    are published already and have not changed get no new commit.

    Args:
        org: Organization or user on the Hub.
        private: As in `hub.publish`.
        token: As in `hub.publish`.
        endpoint: As in `hub.publish`.
        names: Full names of the weights, such as "resnet50_ssia.c10_r32"; all if None.
        hub_configs: Folder with the JSON and weight files; this checkout's hub_configs/ if None.
        sign: Writes STATEMENT into each folder before it is uploaded; without, none is.
        repeat: How to repeat the call, such as a command; errors end with it.
        replace: As in `hub.publish`.
        done: Called with each weight as soon as it is published and recorded.

    Returns:
        The published weights, in the order of the names.

    Raises:
        ConfigError: If a JSON is not valid or cannot be written, or a name is unknown.
        WeightError: If a weight's file is missing or damaged.
        HubError: If an upload fails.
    """
    folder = hub_configs or resource_dir("hub_configs")
    weights = {weight.name: weight for weight in read_published_weights(folder)}
    if unknown := [name for name in names or () if name not in weights]:
        raise ConfigError(f"{folder} has no weight {unknown[0]!r}; it has: {', '.join(weights) or 'none'}")
    all_published = []
    for name in dict.fromkeys(weights if names is None else names):
        repo_id = f"{org}/{name}"
        with tempfile.TemporaryDirectory(prefix="ssia-zoo-") as temporary:
            written = write_weight_folder(_with_path(folder, weights[name]), Path(temporary), repo_id=repo_id)
            if sign is not None:
                sign(written)
            extra = [file for file in (EVAL_RESULTS, STATEMENT) if (written / file).is_file()]
            hub: dict[str, Any] = {"private": private, "token": token, "endpoint": endpoint, "replace": replace}
            url = publish(written, repo_id, **hub, repeat=repeat, extra=extra)
            sha256 = file_sha256(written / WEIGHTS)
        commit = _COMMIT_URL.fullmatch(url)
        if commit is None:
            raise HubError(f"{repo_id} is published, but the Hub reports no commit: {url!r}; repeat with: {repeat}")
        published = Published(name=name, repo_id=repo_id, revision=commit[1], repo_sha256=sha256, url=url)
        _record(folder / f"{name}.json", published, repeat)
        all_published.append(published)
        if done is not None:
            done(published)
    return all_published


def collect(
    org: str,
    *,
    private: bool = False,
    token: str | None = None,
    endpoint: str | None = None,
    hub_configs: Path | None = None,
    repeat: str = "the same call of collect",
) -> str:
    """Create or update the collection of an organization's published weights.

    Args:
        org: Organization or user that `publish_all` published to.
        private: As in `hub.update_collection`.
        token: As in `hub.publish`.
        endpoint: As in `hub.publish`.
        hub_configs: As in `publish_all`.
        repeat: As in `publish_all`.

    Returns:
        The collection's address.

    Raises:
        HubError: If it cannot be updated.
    """
    weights = read_published_weights(hub_configs or resource_dir("hub_configs"))
    published = [(weight.repo_id or "", weight) for weight in weights]
    models = {repo_id: _note(weight) for repo_id, weight in published if repo_id.startswith(f"{org}/")}
    where: dict[str, Any] = {"private": private, "token": token, "endpoint": endpoint}
    return update_collection(org, COLLECTION, models, description=_DESCRIPTION, repeat=repeat, **where)


def _note(weight: PublishedWeight) -> str:
    metrics, (_, height, width) = weight.metrics, weight.input_size
    return (
        f"{weight.dataset.name[:200]}, {height}x{width}: top-1 {metrics.top1:.2f} %, without SSIA "
        f"{metrics.control_top1:.2f} % (seed {metrics.seed} of {len(metrics.runs)}; see the card for every seed)"
    )


def _with_path(folder: Path, weight: PublishedWeight) -> PublishedWeight:
    """Return a weight with the full path of its file, for folders other than this package's."""
    return replace(weight, file=str(folder.resolve() / weight.file)) if weight.file else weight


def _record(path: Path, published: Published, repeat: str) -> None:
    """Write a weight's repository, commit and sha256 into its JSON."""
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        after = before | {field: getattr(published, field) for field in ("repo_id", "revision", "repo_sha256")}
        parse_published_weight(after, path)
        if after == before:
            return
        with atomic_write(path) as new:
            new.write_text(json.dumps(after, indent=2) + "\n", encoding="utf-8")
            shutil.copymode(path, new)
        was = f", before to {before['repo_id']}@{before['revision']}" if before.get("repo_id") else ""
        _log.warning("%s now refers to %s@%s%s", path, published.repo_id, published.revision, was)
    except OSError as error:
        raise ConfigError(
            f"{published.name} is published at {published.url}, but {path} cannot be written ({one_line(error)}); "
            f"make it writable and repeat with: {repeat}"
        ) from error
