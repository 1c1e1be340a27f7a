"""Write the page as a Hugging Face Space: a folder that runs on its own, with a copy of this package in it.

The package is copied because a Space installs its requirements from PyPI, where ssia-zoo is not.
"""

from __future__ import annotations

import re
import shutil
from importlib.metadata import PackageNotFoundError, distribution, requires, version
from pathlib import Path

from huggingface_hub import SpaceCard, SpaceCardData
from timm.models import get_pretrained_cfg

import ssia_zoo
from ssia_zoo.errors import ConfigError
from ssia_zoo.extras import require_packages
from ssia_zoo.hub import publish_to_folder
from ssia_zoo.models.loading import load_model, timm_name
from ssia_zoo.models.registry import find_weight, published_weight, weight_path, weights
from ssia_zoo.models.weight import PublishedWeight
from ssia_zoo.resources import resource_dir

_PYTHON = "3.12"
_CPU_WHEELS = "--extra-index-url https://download.pytorch.org/whl/cpu"
_APP = '''"""Serve the page; ssia_zoo/ beside this file is a copy of the package."""

import os

from ssia_zoo.app import AppConfig, serve

os.chdir(os.path.dirname(os.path.abspath(__file__)))  # models are named relative to this file
serve(
    AppConfig(
        models={models!r},
        zoo={zoo!r},
        others=False,
        host=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"),
        port=int(os.environ.get("GRADIO_SERVER_PORT", "7860")),
    )
)
'''
_TEXT = """
# {title}

Drop a picture: the answer, the attention of each stage, the class map, and what changes the answer. {about}

Written by `ssia-zoo publish --space` with ssia-zoo {version}, of which `ssia_zoo/` is a copy. It needs no secrets.
"""


def write_space(destination: Path, title: str, model: str | None = None) -> Path:
    """Write the files of a Space.

    Args:
        destination: New or empty folder.
        title: Title of the Space.
        model: The one model of the page, a name as in `load_model`; all published weights if None. A folder's published
            files are copied, and nothing else of it.

    Raises:
        ConfigError: If Gradio is missing, or the destination is not empty.
        SSIAZooError: If the model cannot be loaded or published.
    """
    require_packages("a Space", ["gradio"], "'ssia-zoo[app]'")
    requirements = _requirements()
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise ConfigError(f"`out` is {destination}, which exists and is not an empty folder; choose another one")
    if model is not None:
        load_model(model)
    destination.mkdir(parents=True, exist_ok=True)
    embedded = [] if model is not None else [weight for weight in weights().values() if weight.file is not None]
    offered, repositories = _models(destination, model, embedded)
    _copy_package(destination / "ssia_zoo", embedded)
    (destination / "app.py").write_text(_APP.format(models=offered, zoo=model is None), encoding="utf-8")
    (destination / "requirements.txt").write_text("\n".join([_CPU_WHEELS, *requirements]) + "\n", encoding="utf-8")
    _write_card(destination, title, repositories, model)
    return destination


def _models(destination: Path, model: str | None, embedded: list[PublishedWeight]) -> tuple[tuple[str, ...], list[str]]:
    """Return the models that app.py names, and their repositories; copy a folder's files, add to `embedded`."""
    if model is None:
        return (), [weight.repo_id for weight in weights().values() if weight.repo_id is not None]
    if published_weight(model) is not None:
        weight = find_weight(model)
        embedded += [weight] if weight.file is not None else []
        return (weight.name,), [weight.repo_id] if weight.repo_id is not None else []
    source = timm_name(model)
    if not source.startswith("local-dir:"):
        repository = get_pretrained_cfg(source).hf_hub_id
        return (model,), [repository] if repository else []
    folder = Path(model.removeprefix("local-dir:")).expanduser()
    if not folder.is_dir():
        return (model,), [re.sub("^hf[-_]hub:", "", model).split("@")[0]]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip(".-") or "model"
    publish_to_folder(folder, destination / "models" / name)
    return (f"models/{name}",), []


def _requirements() -> list[str]:
    """Return what this package and its extra `app` need, without Gradio, which a Space has by its sdk_version."""
    try:
        lines = requires("ssia-zoo") or []
    except PackageNotFoundError as error:
        raise ConfigError("the requirements are unknown, as ssia-zoo is not installed; run: pip install .") from error
    needed = [line for line in lines if "extra ==" not in line or re.search("""extra == ['"]app['"]""", line)]
    return [line.split(";")[0].strip() for line in needed if not line.startswith("gradio")]


def _copy_package(destination: Path, embedded: list[PublishedWeight]) -> None:
    """Copy this package, the descriptions of all published weights, and the files of some."""
    ignored = shutil.ignore_patterns("__pycache__", "_export", "_hub_configs", ".*")
    shutil.copytree(Path(ssia_zoo.__file__).parent, destination, ignore=ignored)
    configs = destination / "_hub_configs"
    configs.mkdir()
    for path in resource_dir("hub_configs").glob("*.json"):
        shutil.copyfile(path, configs / path.name)
    for weight in embedded:
        shutil.copyfile(weight_path(weight), configs / str(weight.file))
    if licence := distribution("ssia-zoo").read_text("licenses/LICENSE"):
        (destination / "LICENSE").write_text(licence, encoding="utf-8")


def _write_card(destination: Path, title: str, repositories: list[str], model: str | None) -> None:
    data = SpaceCardData(
        title=title,
        sdk="gradio",
        sdk_version=version("gradio"),
        python_version=_PYTHON,
        app_file="app.py",
        models=repositories or None,
        license="apache-2.0",
        pinned=False,
    )
    about = "All published weights of SSIA Zoo." if model is None else f"The model is {Path(model).name}."
    text = _TEXT.format(title=title, about=about, version=ssia_zoo.__version__)
    SpaceCard(f"---\n{data.to_yaml()}\n---\n{text}").save(destination / "README.md")
