"""Take a model to another runtime, and call it done only once that runtime gives what PyTorch gives.

One script a target lies in export/; what they share is here: the model, real images, parity, the manifest, and that a
failure leaves no file.
"""

from __future__ import annotations

import importlib.util
import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
import tyro
from torch import nn

from ssia_zoo.errors import ConfigError, ExportError, SSIAZooError, WeightError
from ssia_zoo.export.files import describe_files, input_contract, move_out, quiet, room_beside, versions
from ssia_zoo.export.images import batches, calibration_data, data_config, parity_images
from ssia_zoo.export.parity import accuracy, class_outputs, compare, judge, judge_accuracy, reference
from ssia_zoo.hub import file_sha256
from ssia_zoo.hub.files import WEIGHTS
from ssia_zoo.models.label_names import read_label_names
from ssia_zoo.models.loading import load_model, timm_name
from ssia_zoo.models.registry import published_weight, vanilla_architecture
from ssia_zoo.models.saving import public_model
from ssia_zoo.resources import resource_dir

__all__ = ["TARGETS", "TOLERANCE", "ExportResult", "command", "export", "export_model", "load_artefact", "main"]

TARGETS = {
    "onnx": "to_onnx.py",
    "torch-export": "to_torch_export.py",
    "openvino": "to_openvino.py",
    "executorch": "to_executorch.py",
}
"""The script in export/ for each target."""

BATCHES = (1, 7, 7)
"""The parity images come to the runtime in batches of these sizes."""

TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "int8": 2.0}
"""fp32, fp16: largest logit error, as a fraction of the largest logit where that is above 1.
int8: percentage points of accuracy that may be lost to quantisation."""

_CALIBRATION_BATCH = 16
_LONGEST_REASON = 300  # characters of an exporter's error

Array = npt.NDArray[np.float32]
Runner = Callable[[Array], Array]


class _Script(Protocol):
    """What a script in export/ defines."""

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
    """What an export left: the artefact, files it needs beside it, and its manifest."""

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
    image_size: int | None = None,
    tolerance: float | None = None,
    pretrained: bool = True,
) -> ExportResult:
    """Create a model, export it, and prove parity in the target's own runtime.

    Args:
        target: One of `TARGETS`.
        model: What timm.create_model takes: a name, `local-dir:FOLDER` or `hf-hub:org/name`.
        out: File to write, with the target's suffix; or an existing folder, where the file takes the model's name,
            followed by the precision if that is not fp32.
        precision: "fp32", and where the target has them "fp16" and "int8".
        images: Folder of real images for the parity check; scikit-learn's digits if None.
        calibration_dataset: For int8: a data set as `ssia_zoo.data.DataConfig` takes it.
        calibration_images: How many of its training images calibrate.
        image_size: Height and width of the input in pixels; the model's own if None.
        tolerance: Instead of `TOLERANCE` for this precision.
        pretrained: Load the model's weights; random ones are of use for measuring speed alone.

    Raises:
        ConfigError: If an argument is not valid, a package is missing, or `out` cannot be written.
        WeightError: If the model has no weights or they are damaged.
        ExportError: If the target cannot take the model, or the artefact differs from PyTorch beyond tolerance.
    """
    script = _script(target, precision)  # a wrong target is told before weights are fetched
    if (precision == "int8") != (calibration_dataset is not None):
        needs = "needs --calibration-dataset, e.g. digits" if precision == "int8" else "takes no --calibration-dataset"
        raise ConfigError(f"--precision {precision} {needs}")
    path = _artefact_path(out, model, precision, script.SUFFIX, target)
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
        weights=_weight_facts(model, created) if pretrained else "random",
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
    image_size: int | None = None,
    tolerance: float | None = None,
    weights: Any = "as given",
) -> ExportResult:
    """Export a timm model that exists already; as `export`, and it puts the model into evaluation mode.

    Args:
        target: As in `export`.
        model: The model.
        name: How the manifest names it.
        out: File to write.
        precision: As in `export`.
        images: As in `export`.
        calibration_dataset: As in `export`.
        calibration_images: As in `export`.
        image_size: As in `export`.
        tolerance: As in `export`.
        weights: What the manifest says of the weights.

    Raises:
        ConfigError: As in `export`.
        ExportError: As in `export`.
    """
    script = _script(target, precision)
    limit = TOLERANCE[precision] if tolerance is None else tolerance
    if not 0 < limit < math.inf:
        raise ConfigError(f"--tolerance is {limit:g}; expected a finite number above 0")
    model = model.cpu().float().eval()
    config = data_config(model, image_size)
    real = parity_images(config, images, sum(BATCHES))
    expected = reference(model, real, name)
    data = calibration_data(config, calibration_dataset, calibration_images) if calibration_dataset else None
    calibration = [] if data is None else list(batches(data.images, _CALIBRATION_BATCH))
    with room_beside(out) as room, quiet():
        path = room / out.name
        try:
            with torch.no_grad():  # some graphs cannot be decomposed otherwise
                script.convert(model, torch.from_numpy(real.pixels[:2].copy()), path, precision, calibration)
        except Exception as error:  # exporters raise every kind
            raise ExportError(f"{target} cannot take {name}: {_one_line(error)}") from error
        try:
            run = script.load(path)
            parity = compare(run, real, expected, BATCHES) | {"tolerance": limit}
            if data is not None:
                # Of random weights only the agreement says something.
                outputs = None if weights == "random" else class_outputs(model, data)
                parity |= accuracy(model, run, data, outputs)
        except Exception as error:  # so do runtimes
            raise ExportError(f"{target} cannot run its file of {name}: {_one_line(error)}") from error
        if data is None:
            judge(parity, limit, f"{name} in {target} {precision}")
        else:
            judge_accuracy(parity, limit, f"{name} in {target} int8")
        manifest = {
            "format": "ssia-zoo export 1",
            "target": target,
            "precision": precision,
            "file": out.name,
            "files": describe_files(room),
            "model": public_model(name),
            "architecture": vanilla_architecture(_architecture(model)),
            "weights": weights,
            "input": input_contract(config),
            "output": {"name": "logits", "shape": ["batch", *expected.shape[1:]], "dtype": "float32"},
            "labels": _labels(model),
            "parity": parity,
            **script.NOTES,
            "versions": versions(),
        }
        text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
        (room / f"{out.name}.json").write_text(text, encoding="utf-8")
        move_out(room, out)
    return ExportResult(out, out.with_name(f"{out.name}.json"), manifest)


def load_artefact(target: str, path: Path) -> Runner:
    """A function that runs an exported file in its own runtime: float32 N x channels x height x width to N x classes.

    Raises:
        ConfigError: If the target is unknown or its runtime is not installed.
    """
    return _script(target, "fp32").load(path)


def command(
    target: Annotated[str, tyro.conf.Positional],
    model: Annotated[str, tyro.conf.Positional],
    out: Path,
    precision: Literal["fp32", "fp16", "int8"] = "fp32",
    images: Path | None = None,
    calibration_dataset: str | None = None,
    calibration_images: int = 128,
    image_size: int | None = None,
    tolerance: float | None = None,
    pretrained: bool = True,
) -> None:
    """Export a model and check that the file gives what PyTorch gives.

    For example:
      ssia-zoo export onnx mobilenetv3_small_050_ssia --out m.onnx
      ssia-zoo export onnx mobilenetv3_small_050_ssia --out m8.onnx --precision int8 --calibration-dataset digits
      ssia-zoo export torch-export mobilenetv3_small_050_ssia --out m.pt2
      ssia-zoo export openvino mobilenetv3_small_050_ssia --out m.xml --precision fp16
      ssia-zoo export executorch mobilenetv3_small_050_ssia --out m.pte

    Args:
        target: onnx, torch-export, openvino or executorch.
        model: name such as mobilenetv3_small_050_ssia, any timm name, local-dir:FOLDER or hf-hub:org/name.
        out: file to write, or an existing folder; a manifest FILE.json is written beside it.
        precision: fp32; openvino also fp16 (weights) and int8, onnx also int8.
        images: folder of real images for the check; scikit-learn's digits if not given.
        calibration_dataset: for int8: Hub id, folder of parquet files, image folder, or digits.
        calibration_images: images that calibrate.
        image_size: height and width of the input, pixels; the model's own if not given.
        tolerance: largest logit error let pass, as a fraction of the largest logit (int8: loss of accuracy, points).
        pretrained: load weights; --no-pretrained exports random ones, to measure speed.
    """
    result = export(
        target,
        model,
        out,
        precision=precision,
        images=images,
        calibration_dataset=calibration_dataset,
        calibration_images=calibration_images,
        image_size=image_size,
        tolerance=tolerance,
        pretrained=pretrained,
    )
    print(summary(result))


def summary(result: ExportResult) -> str:
    """One line on an export: file, size, and how near it comes to PyTorch."""
    parity = result.manifest["parity"]
    size = sum(file["bytes"] for file in result.manifest["files"].values())
    line = f"{result.path}: {size / 1e6:.2f} MB, largest logit error {parity['max_abs_error']:.2g}"
    if "accuracy" in parity:
        line += f", top-1 {parity['accuracy']:.2f} % (fp32 {parity['accuracy_fp32']:.2f} %)"
    elif "agreement" in parity:
        line += f", same top-1 as fp32 on {parity['agreement']:.2f} %"
    return f"{line}, checked on {parity['images']} of {parity['source']}"


def main(target: str, args: Sequence[str] | None = None) -> int:
    """The command line of one target's script.

    Returns:
        Exit status: 0 done, 1 failed with a message (2, a wrong flag, exits at once).
    """
    arguments = [target, *(sys.argv[1:] if args is None else args)]
    try:
        tyro.cli(command, args=arguments)
    except SSIAZooError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


# --- The script, the model, the files ---------------------------------------------------------------------------------


def _script(target: str, precision: str) -> _Script:
    if target not in TARGETS:
        near = get_close_matches(target, TARGETS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{target!r} is no target; expected one of {', '.join(TARGETS)}{hint}")
    script = _load_script(target)
    if precision not in script.PRECISIONS:
        raise ConfigError(f"--precision {precision}: {target} has {', '.join(script.PRECISIONS)}; choose one of them")
    packages = (*script.PACKAGES, *(getattr(script, "PACKAGES_INT8", ()) if precision == "int8" else ()))
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        extra = "executorch" if target == "executorch" else "'.[export]' in a clone of SSIA Zoo"
        raise ConfigError(f"{target} needs {', '.join(missing)}, which is not installed; run: pip install {extra}")
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


def _create(name: str, image_size: int | None, pretrained: bool) -> Any:
    if image_size is not None and image_size < 1:
        raise ConfigError(f"--image-size is {image_size}; expected at least 1 pixel")
    try:
        model = load_model(name, pretrained=pretrained)
        if image_size is not None and model.pretrained_cfg.get("fixed_input_size"):
            model = load_model(name, pretrained=pretrained, img_size=image_size)
    except WeightError as error:
        hint = "; --no-pretrained exports it with random weights" if pretrained else ""
        raise WeightError(f"{error}{hint}") from error
    return model


def _artefact_path(out: Path, model: str, precision: str, suffix: str, target: str) -> Path:
    out = Path(out)
    if out.is_dir():
        stem = public_model(model).split(":", 1)[-1].rsplit("/", 1)[-1]
        return out / f"{stem}{'' if precision == 'fp32' else f'_{precision}'}{suffix}"
    if out.suffix != suffix:
        raise ConfigError(f"--out {out}: {target} writes {suffix} files; expected such a name or an existing folder")
    return out


def _architecture(model: Any) -> str:
    return str(model.pretrained_cfg["architecture"])


def _labels(model: Any) -> list[str] | None:
    names = read_label_names(model.pretrained_cfg, model.num_classes)
    return None if names is None else list(names)


def _weight_facts(name: str, model: Any) -> dict[str, Any]:
    cfg = model.pretrained_cfg
    facts = {key: cfg.get(key) for key in ("tag", "hf_hub_id", "license")}
    if (published := published_weight(name)) is not None:
        facts["sha256"] = published.sha256 or published.repo_sha256
    elif (source := timm_name(name)).startswith("local-dir:"):
        facts["sha256"] = file_sha256(Path(source.removeprefix("local-dir:")) / WEIGHTS)
    return {key: value for key, value in facts.items() if value}


def _one_line(error: BaseException) -> str:
    """The first cause, which says more than the exporters' advice around it, without colours and line ends."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split()) or type(error).__name__
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}…"
