"""Export a model to another runtime and check there that its logits are PyTorch's.

Each target has a script in export/ with `convert` and `load`; this module adds the model, real images, the parity check
and the manifest, and writes no file when a step fails.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import nn

from ssia_zoo.data.config import Size, read_size
from ssia_zoo.errors import ConfigError, ExportError, did_you_mean, one_line
from ssia_zoo.export.files import MANIFEST_FORMAT, commit_files, describe_files, describe_input, quiet, staging_dir
from ssia_zoo.export.images import Array, batches, calibration_data, data_config, parity_images
from ssia_zoo.export.parity import (
    Runner,
    accuracy,
    check_accuracy,
    check_parity,
    class_outputs,
    compare,
    reference,
)
from ssia_zoo.extras import require_packages
from ssia_zoo.hub import file_sha256
from ssia_zoo.hub.files import WEIGHTS
from ssia_zoo.models.label_names import imagenet_names, multi_label_threshold, read_label_names
from ssia_zoo.models.loading import load_model, timm_name
from ssia_zoo.models.registry import published_weight, vanilla_architecture
from ssia_zoo.models.saving import public_model
from ssia_zoo.resources import resource_dir
from ssia_zoo.version import versions

TARGETS = {
    "onnx": "to_onnx.py",
    "torch-export": "to_torch_export.py",
    "openvino": "to_openvino.py",
    "executorch": "to_executorch.py",
}
"""The script in export/ for each target."""

BATCHES = (1, 7, 7)
"""Batch sizes in which the parity images are run."""

TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "int8": 2.0}
"""fp32, fp16: largest logit error, as a fraction of the largest logit where that is above 1.
int8: largest loss of accuracy, percentage points."""

_CALIBRATION_BATCH = 16
_REASON_LIMIT = 300  # characters of an exporter's error


class _Script(Protocol):
    """The names that a script in export/ defines."""

    SUFFIX: str
    PACKAGES: tuple[str, ...]
    PRECISIONS: tuple[str, ...]
    NOTES: dict[str, Any]

    def convert(
        self, model: nn.Module, example: torch.Tensor, path: Path, precision: str, calibration: Sequence[Array]
    ) -> None: ...

    def load(self, path: Path) -> Runner: ...


@dataclass(frozen=True)
class ExportResult:
    """The exported file and its manifest."""

    path: Path
    manifest_path: Path
    manifest: dict[str, Any]


def export(
    target: str,
    model: str,
    out: Path,
    *,
    precision: str = "fp32",
    images: Path | None = None,
    calibration_dataset: str | None = None,
    calibration_images: int = 128,
    image_size: Size | None = None,
    tolerance: float | None = None,
    pretrained: bool = True,
) -> ExportResult:
    """Load a model, export it, and check parity in the target's runtime.

    Args:
        target: One of `TARGETS`.
        model: A name, folder or repository, as `ssia_zoo.models.loading.load_model` takes it.
        out: File to write, with the target's suffix, or an existing folder: the file is then named after the model
            and, unless it is fp32, the precision.
        precision: "fp32", or "fp16" and "int8" where the target has them.
        images: Folder of images for the parity check; scikit-learn's digits if None.
        calibration_dataset: Data set for int8, as `ssia_zoo.data.DataConfig` takes it.
        calibration_images: Number of training images for calibration.
        image_size: Of the input, pixels: one number for a square, or height and width; the model's own if None.
        tolerance: Replaces `TOLERANCE` of this precision.
        pretrained: Load the model's weights; random weights serve to measure speed only.

    Raises:
        ConfigError: If an argument is not valid, a package is missing, or `out` cannot be written.
        WeightError: If the model has no weights or they are damaged.
        ExportError: If the target does not support the model, or the file differs from PyTorch beyond tolerance.
    """
    script = _script(target, precision)  # before weights are downloaded
    if (precision == "int8") != (calibration_dataset is not None):
        needs = "needs `calibration_dataset`, e.g. digits" if precision == "int8" else "takes no `calibration_dataset`"
        raise ConfigError(f"`precision` {precision} {needs}")
    path = _output_path(out, model, precision, script.SUFFIX, target)
    created = _create(model, image_size, pretrained)
    return export_model(
        target,
        created,
        model,
        path,
        precision=precision,
        images=images,
        calibration_dataset=calibration_dataset,
        calibration_images=calibration_images,
        image_size=image_size,
        tolerance=tolerance,
        weights=_describe_weights(model, created) if pretrained else "random",
    )


def export_model(
    target: str,
    model: Any,
    name: str,
    out: Path,
    *,
    precision: str = "fp32",
    images: Path | None = None,
    calibration_dataset: str | None = None,
    calibration_images: int = 128,
    image_size: Size | None = None,
    tolerance: float | None = None,
    weights: Any = "as given",
) -> ExportResult:
    """Export a timm model instance, like `export`; the model is put into eval mode.

    Args:
        target: As in `export`.
        model: A timm classifier.
        name: The model's name in the manifest and in errors.
        out: File to write.
        precision: As in `export`.
        images: As in `export`.
        calibration_dataset: As in `export`.
        calibration_images: As in `export`.
        image_size: As in `export`.
        tolerance: As in `export`.
        weights: Description of the weights for the manifest.

    Raises:
        ConfigError: As in `export`.
        ExportError: As in `export`.
    """
    script = _script(target, precision)
    limit = TOLERANCE[precision] if tolerance is None else tolerance
    if not 0 < limit < math.inf:
        raise ConfigError(f"`tolerance` is {limit:g}; expected a finite number above 0")
    model = model.cpu().float().eval()
    config = data_config(model, image_size)
    real = parity_images(config, images, sum(BATCHES))
    expected = reference(model, real, name)
    data = calibration_data(config, calibration_dataset, calibration_images) if calibration_dataset else None
    calibration = [] if data is None else list(batches(data.images, _CALIBRATION_BATCH))
    with staging_dir(out) as folder, quiet():
        path = folder / out.name
        try:
            with torch.no_grad():  # some graphs cannot be decomposed otherwise
                script.convert(model, torch.from_numpy(real.pixels[:2].copy()), path, precision, calibration)
        except Exception as error:  # exporters raise any exception
            raise ExportError(f"{target} cannot export {name}: {_first_cause(error)}") from error
        try:
            run = script.load(path)
            parity = compare(run, real, expected, BATCHES) | {"tolerance": limit}
            if data is not None:
                # With random weights accuracy says nothing, agreement does.
                outputs = None if weights == "random" else class_outputs(model, data)
                parity |= accuracy(model, run, data, outputs)
        except Exception as error:  # so do runtimes
            raise ExportError(f"{target} cannot run the exported file of {name}: {_first_cause(error)}") from error
        if data is None:
            check_parity(parity, limit, f"{name} in {target} {precision}")
        else:
            check_accuracy(parity, limit, f"{name} in {target} int8")
        manifest = {
            "format": MANIFEST_FORMAT,
            "target": target,
            "precision": precision,
            "file": out.name,
            "files": describe_files(folder),
            "model": public_model(name),
            "architecture": vanilla_architecture(str(model.pretrained_cfg["architecture"])),
            "weights": weights,
            "input": describe_input(config),
            "output": {"name": "logits", "shape": ["batch", *expected.shape[1:]], "dtype": "float32"},
            "labels": _labels(model),
            "threshold": multi_label_threshold(model),
            "parity": parity,
            **script.NOTES,
            "versions": versions(),
        }
        text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
        (folder / f"{out.name}.json").write_text(text, encoding="utf-8")
        commit_files(folder, out)
    return ExportResult(out, out.with_name(f"{out.name}.json"), manifest)


def load_artefact(target: str, path: Path) -> Runner:
    """Load an exported file in its runtime.

    Returns:
        A function from float32 images [N, C, H, W] to logits [N, num_classes].

    Raises:
        ConfigError: If the target is unknown or its runtime is not installed.
    """
    return _script(target, "fp32").load(path)


def summary(result: ExportResult) -> str:
    """Describe an export in one line: file, size, and the error against PyTorch."""
    parity = result.manifest["parity"]
    size = sum(file["bytes"] for file in result.manifest["files"].values())
    line = f"{result.path}: {size / 1e6:.2f} MB, largest logit error {parity['max_abs_error']:.2g}"
    if "accuracy" in parity:
        line += f", top-1 {parity['accuracy']:.2f} % (fp32 {parity['accuracy_fp32']:.2f} %)"
    elif "agreement" in parity:
        line += f", same top-1 as fp32 on {parity['agreement']:.2f} %"
    return f"{line}, checked on {parity['images']} images of {parity['source']}"


def _script(target: str, precision: str) -> _Script:
    """Load a target's script and check that it can run here."""
    if target not in TARGETS:
        hint = did_you_mean(target, TARGETS, f"expected one of {', '.join(TARGETS)}", most=1)
        raise ConfigError(f"unknown export target {target!r}; {hint}")
    script = _load_script(target)
    if precision not in script.PRECISIONS:
        raise ConfigError(f"`precision` is {precision}; {target} has {', '.join(script.PRECISIONS)}")
    packages = (*script.PACKAGES, *(getattr(script, "PACKAGES_INT8", ()) if precision == "int8" else ()))
    require_packages(target, packages, "executorch" if target == "executorch" else "'ssia-zoo[export]'")
    return script


@lru_cache
def _load_script(target: str) -> _Script:
    path = resource_dir("export") / TARGETS[target]
    spec = importlib.util.spec_from_file_location(f"ssia_zoo_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigError(f"{path} is missing; the installation is damaged: reinstall ssia-zoo")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return cast(_Script, module)


def _create(name: str, image_size: Size | None, pretrained: bool) -> Any:
    if image_size is not None:
        try:
            image_size = read_size(image_size)
        except ValueError as error:
            raise ConfigError(f"`image_size` is {image_size}; expected {error}") from error
    model = load_model(name, pretrained=pretrained)
    if image_size is not None and model.pretrained_cfg.get("fixed_input_size"):
        model = load_model(name, pretrained=pretrained, img_size=image_size)
    return model


def _output_path(out: Path, model: str, precision: str, suffix: str, target: str) -> Path:
    out = Path(out)
    if out.is_dir():
        stem = public_model(model).split(":", 1)[-1].rsplit("/", 1)[-1]
        return out / f"{stem}{'' if precision == 'fp32' else f'_{precision}'}{suffix}"
    if out.suffix != suffix:
        raise ConfigError(f"`out` is {out}; expected a name ending in {suffix} for {target}, or an existing folder")
    return out


def _describe_weights(name: str, model: Any) -> dict[str, Any]:
    cfg = model.pretrained_cfg
    facts = {key: cfg.get(key) for key in ("tag", "hf_hub_id", "license")}
    if (published := published_weight(name)) is not None:
        facts["sha256"] = published.sha256 or published.repo_sha256
    elif (source := timm_name(name)).startswith("local-dir:"):
        facts["sha256"] = file_sha256(Path(source.removeprefix("local-dir:")) / WEIGHTS)
    return {key: value for key, value in facts.items() if value}


def _labels(model: Any) -> tuple[str, ...] | None:
    """Return the names of the classes: the model's, or ImageNet's for timm's models of it."""
    names = read_label_names(model.pretrained_cfg, model.num_classes)
    return names if names is not None or not (known := imagenet_names(model)) else known[1]


def _first_cause(error: BaseException) -> str:
    """Return the text of the exception that started a chain; exporters wrap it in general advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error, _REASON_LIMIT)
