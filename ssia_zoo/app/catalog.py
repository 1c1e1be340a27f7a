"""The models and reports that the page offers."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ssia_zoo.app.config import AppConfig
from ssia_zoo.errors import ConfigError, did_you_mean
from ssia_zoo.hub.files import CONFIG, WEIGHTS
from ssia_zoo.inference import Classifier
from ssia_zoo.models.loading import load_model
from ssia_zoo.models.registry import weights

_KEPT = 4
_REPORT = "report.html"

_Version = tuple[tuple[int, int], ...]
"""Time and size of each file of a model's folder; empty for other models."""


@dataclass(frozen=True)
class Report:
    """A report written by `finetune` or by `validate --report`."""

    name: str
    path: Path


class Catalog:
    """Models by name, loaded when they are first used; the last ones stay in memory.

    A folder is loaded again when its files have changed, such as after another training.

    Args:
        names: Names of the models to offer, as in `load_model`.
        others: Whether any other model may be asked for by its name.
        reports: Reports to show.
    """

    def __init__(self, names: Sequence[str], *, others: bool, reports: Sequence[Report] = ()) -> None:
        self.names = tuple(dict.fromkeys(names))
        self.others = others
        self.reports = tuple(reports)
        self._loaded: OrderedDict[str, tuple[_Version, Classifier]] = OrderedDict()
        self._lock = threading.Lock()

    def load(self, name: str) -> Classifier:
        """Return a model, ready to classify.

        Raises:
            SSIAZooError: If it is not offered, or cannot be loaded.
        """
        if name not in self.names and not self.others:
            hint = did_you_mean(name, self.names, f"expected one of {', '.join(self.names)}")
            raise ConfigError(f"this page does not offer the model {name!r}; {hint}")
        with self._lock:
            version = _version(name)
            if name not in self._loaded or self._loaded[name][0] != version:
                self._loaded.pop(name, None)
                self._loaded[name] = version, Classifier(load_model(name))
            self._loaded.move_to_end(name)
            while len(self._loaded) > _KEPT:
                self._loaded.popitem(last=False)
            return self._loaded[name][1]


def make_catalog(config: AppConfig) -> Catalog:
    """Make the catalog of the given models, which are loaded at once to find errors early, and the published weights.

    Raises:
        ConfigError: If there is no model to offer.
        SSIAZooError: If a model cannot be loaded.
    """
    models = config.models
    found = {name: path for name in models if (path := find_report(name)) is not None}
    folders = {path.resolve(): _folder(name).resolve() for name, path in found.items()}  # each report once
    reports = [Report(*report) for report in zip(_short_names(list(folders.values())), folders, strict=True)]
    chosen = [name for name in models if name not in found or (_folder(name) / CONFIG).is_file()]
    names = [*chosen, *(weights() if config.zoo else [])]
    if not names:
        raise ConfigError(f"`models` is {', '.join(models) or 'empty'}; expected at least one model to offer")
    catalog = Catalog(names, others=config.others and config.loopback, reports=reports)
    for name in chosen[-_KEPT:]:
        catalog.load(name)
    return catalog


def find_report(name: str) -> Path | None:
    """Return the report of a folder: its report/report.html, or its report.html; None if it has neither."""
    folder = _folder(name)
    return next((path for path in (folder / "report" / _REPORT, folder / _REPORT) if path.is_file()), None)


def _short_names(folders: Sequence[Path]) -> list[str]:
    """Name folders by their last part, or by as many as differ; one that is called report by the folder above it."""
    parts = [
        folder.parts[:-1] if folder.name == "report" and len(folder.parts) > 2 else folder.parts for folder in folders
    ]
    names = [part[-1] for part in parts]
    for length in range(2, max(map(len, parts), default=0) + 1):
        count = Counter(names)
        names = ["/".join(part[-length:]) if count[name] > 1 else name for part, name in zip(parts, names, strict=True)]
    return names


def _version(name: str) -> _Version:
    files = [_folder(name) / file for file in (WEIGHTS, CONFIG)]
    return tuple((file.stat().st_mtime_ns, file.stat().st_size) for file in files if file.is_file())


def _folder(name: str) -> Path:
    return Path(name.removeprefix("local-dir:")).expanduser()
