"""Export the smallest model of every timm family to each target and compare it with PyTorch on real images.

    nice -n 19 env OMP_NUM_THREADS=1 python benchmarks/export_breadth.py --targets onnx torch-export openvino
    python benchmarks/export_breadth.py --report          # only write docs/export_breadth.md

Each family runs in a separate process with a time limit and is recorded when that ends: an interrupted run resumes, and
results of other package versions are measured again. Weights are random, without the zeros and ones that some layers
are initialized with: an export could lose such a layer unnoticed. The comparison is between the computations of the
original and the exported graph.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import multiprocessing
import os
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import recording
import timm
import torch
import tyro
from recording import DOCS, RESULTS, Record, append_record, versions
from timm.models import model_entrypoint

from ssia_zoo.errors import SSIAZooError, one_line
from ssia_zoo.export.exporter import _load_script, export_model

RECORDS = RESULTS / "export_breadth.jsonl"
REPORT = DOCS / "export_breadth.md"
SEED = 0
SIZE = 128  # pixels
TARGETS = ("onnx", "torch-export", "openvino", "executorch")


@dataclass
class Settings:
    """Export the smallest model of every timm family and compare it with PyTorch."""

    targets: tuple[str, ...] = ("onnx",)
    """targets of ssia_zoo.export.exporter"""
    families: tuple[str, ...] = ()
    """timm families; all by default"""
    timeout: int = 900
    """CPU seconds per family"""
    again: bool = False
    """repeat failed exports"""
    report: bool = False
    """only write the report"""


def smallest_models() -> dict[str, str]:
    """Return the smallest model of each family, cached in results/ since counting parameters takes minutes."""
    cache = RESULTS / "smallest_models.json"
    if cache.is_file():
        cached = json.loads(cache.read_text())
        if cached["timm"] == timm.__version__:
            found: dict[str, str] = cached["models"]
            return found
    best: dict[str, tuple[int, str]] = {}
    families: set[str] = set()
    for name in timm.list_models():
        family = model_entrypoint(name).__module__.rsplit(".", 1)[-1]
        families.add(family)
        try:
            with torch.device("meta"):
                count = sum(p.numel() for p in timm.create_model(name).parameters())
        except Exception:  # some cannot be built on the meta device; then the family's first name is used
            continue
        best[family] = min(best.get(family, (count, name)), (count, name))
    listed = {family: timm.list_models(module=family) for family in families}
    unknown = [(10**12, listed[family][0], family) for family in families if family not in best]
    ordered = sorted([(*best[family], family) for family in best] + unknown)
    models = {family: name for _, name, family in ordered}  # smallest first
    cache.write_text(json.dumps({"timm": timm.__version__, "models": models}, indent=1) + "\n")
    return models


def randomized_model(name: str) -> Any:
    """Create a model whose weights are all random: a layer scale of 1e-6 or a head of zeros would hide errors."""
    torch.manual_seed(SEED)
    model = timm.create_model(name, pretrained=False)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim < 2:
                parameter.add_(0.1 * torch.randn_like(parameter))
            elif parameter.std() < 1e-4:
                parameter.add_(0.02 * torch.randn_like(parameter))
        for key, buffer in model.named_buffers():
            if key.endswith("running_mean"):
                buffer.add_(0.1 * torch.randn_like(buffer))
            elif key.endswith("running_var"):
                buffer.mul_(1 + 0.2 * torch.rand_like(buffer))
    return model


def smaller_size(model: Any) -> int | None:
    """Return SIZE or the model's minimum size if it runs at that size; None to use the model's own size."""
    cfg = model.pretrained_cfg
    if cfg.get("fixed_input_size") or min(cfg["input_size"][1:]) <= SIZE:
        return None
    for size in (SIZE, *(cfg.get("min_input_size") or ())[1:2]):
        with contextlib.suppress(Exception), torch.inference_mode():  # models raise all kinds of errors
            model.eval()(torch.zeros(1, 3, size, size))
            return size
    return None


def export_one(targets: Sequence[str], name: str, outcomes: Path) -> None:
    """Export one model to each target, into a temporary folder; append a JSON line for each to `outcomes`."""
    model = randomized_model(name)
    size = smaller_size(model)
    with tempfile.TemporaryDirectory() as folder:
        for target in targets:
            start = time.perf_counter()
            out = Path(folder) / f"{target}{_load_script(target).SUFFIX}"
            try:
                manifest = export_model(target, model, name, out, image_size=size, weights="random").manifest
                keys = ("max_abs_error", "max_abs_logit", "tolerance", "top1_agreement", "images")
                outcome = {"ok": True, **{key: manifest["parity"][key] for key in keys}}
                outcome["input"] = manifest["input"]["shape"][1:]
            except SSIAZooError as error:
                outcome = {"ok": False, "reason": str(error)}
            except Exception as error:
                outcome = {"ok": False, "reason": f"{type(error).__name__}: {one_line(error, 300)}"}
            outcome["seconds"] = round(time.perf_counter() - start, 1)
            append_record(outcomes, {"target": target, **outcome})
            if target == "onnx" and outcome["ok"]:
                _reuse_onnx_file(out)


def _reuse_onnx_file(file: Path) -> None:
    """Let the export to OpenVINO, whose first step is an export to ONNX, use the file that exists already."""

    def copy(model: Any, example: Any, path: Path, precision: str, calibration: Any) -> None:
        shutil.copy(file, path)
        if (weights := file.with_name(f"{file.name}.data")).is_file():  # for models above 2 GiB
            shutil.copy(weights, path.with_name(weights.name))

    _load_script("openvino")._to_onnx = lambda: SimpleNamespace(convert=copy)


def run_child(targets: Sequence[str], name: str, timeout: int) -> dict[str, dict[str, Any]]:
    """Run `export_one` in a separate process, which may crash or hang, and return the outcome of each target.

    The process is forked, with all packages imported: importing takes as long as an export.
    """
    with tempfile.TemporaryDirectory() as folder:
        outcomes, stderr = Path(folder) / "outcomes.jsonl", Path(folder) / "stderr"

        def child() -> None:
            resource.setrlimit(resource.RLIMIT_CPU, (timeout, timeout))  # CPU time does not depend on other load
            os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT), 2)
            export_one(targets, name, outcomes)

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join()
        result = {outcome.pop("target"): outcome for outcome in recording.read_results(outcomes)}
        unfinished = [target for target in targets if target not in result]
        if unfinished:  # the first of them ended the process; the others have not been run
            last = (stderr.read_text(errors="replace").strip().splitlines() or ["no message"])[-1][:200]
            reason = f"the process ended with status {process.exitcode}: {last}"
            if process.exitcode in (-signal.SIGXCPU, -signal.SIGKILL):
                reason = f"not finished after {timeout} s of CPU time, or out of memory"
            result[unfinished[0]] = {"ok": False, "reason": reason}
    return result


def read_results() -> dict[tuple[str, str], Record]:
    """Return the newest outcome of each (family, target)."""
    return {(record["family"], record["target"]): record for record in recording.read_results(RECORDS)}


def write_report(models: dict[str, str]) -> None:
    """Write docs/export_breadth.md from the recorded outcomes."""
    results = read_results()
    targets = [target for target in TARGETS if any(key[1] == target for key in results)]
    lines = [
        "# Export, family by family",
        "",
        "The smallest model of each timm family, exported and compared with PyTorch on 15 images (batches of 1, 7",
        "and 7). The numbers are the largest logit error, as a fraction of the largest logit if that is above 1; up to",
        "1e-3 passes. Weights are random (seed 0). Models that take any size may be run on smaller images than their",
        "default: see `input` in benchmarks/results/export_breadth.jsonl.",
        "Generated by `python benchmarks/export_breadth.py`; do not edit.",
        "",
    ]
    for target in targets:
        known = [record for (_, name), record in results.items() if name == target]
        passed = sum(record["ok"] for record in known)
        partial = "" if len(known) == len(models) else f" (**partial**: {len(models) - len(known)} not run)"
        lines.append(f"- {target}: {passed} of {len(known)} families pass{partial}")
    shown = [record.get("versions", {}) for record in results.values()]
    packages = dict.fromkeys(package for versions in shown for package in versions if package != "ssia-zoo")
    made = {package: sorted({versions[package] for versions in shown if package in versions}) for package in packages}
    lines += ["", ", ".join(f"{package} {' and '.join(versions)}" for package, versions in made.items()), ""]
    lines += ["| family | model | " + " | ".join(targets) + " |", "|---" * (len(targets) + 2) + "|"]
    reasons = []
    for family, name in sorted(models.items()):
        cells = []
        for target in targets:
            record = results.get((family, target))
            if record is None:
                cells.append("not run")
            elif record["ok"]:
                cells.append(f"{record['max_abs_error'] / max(1, record['max_abs_logit']):.1e}")
            else:
                reasons.append(f"| {family} | {target} | {record['reason'].replace('|', '/')} |")
                cells.append("fails")
        lines.append(f"| {family} | {name} | " + " | ".join(cells) + " |")
    if reasons:
        lines += ["", "## Errors", "", "| family | target | reason |", "|---|---|---|", *reasons]
    REPORT.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(settings: Settings) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime", "openvino", "executorch"):  # once, for all children
        with contextlib.suppress(ImportError):
            importlib.import_module(package)
    models = smallest_models()
    for family in () if settings.report else settings.families or models:
        missing = missing_targets(family, settings)
        while missing:
            outcomes = run_child(missing, models[family], settings.timeout)
            for target, outcome in outcomes.items():
                record = {"family": family, "model": models[family], "target": target, "seed": SEED, **outcome}
                append_record(RECORDS, {**record, "versions": versions()})
                print(f"{target} {family}: {'ok' if outcome['ok'] else outcome['reason']}", flush=True)
            missing = [target for target in missing if target not in outcomes]
        write_report(models)
    write_report(models)


def missing_targets(family: str, settings: Settings) -> list[str]:
    """Return the targets without an outcome for the installed packages, and with `again` those that failed."""
    old, installed = read_results(), versions()

    def is_missing(target: str) -> bool:
        record = old.get((family, target))
        if record is None or (settings.again and not record["ok"]):
            return True
        packages = {"torch", "timm", *_load_script(target).PACKAGES}
        return any(record.get("versions", {}).get(package) != installed.get(package) for package in packages)

    return [target for target in settings.targets if is_missing(target)]


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
