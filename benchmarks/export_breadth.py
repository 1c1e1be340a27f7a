"""Export the smallest model of every timm family to each target and compare with PyTorch on real images.

    nice -n 19 env OMP_NUM_THREADS=1 python benchmarks/export_breadth.py --targets onnx
    python benchmarks/export_breadth.py --report          # only writes docs/export_breadth.md anew

Each (family, target) runs in a process of its own with a time-out, and is written down when it ends: a run that was
stopped goes on where it was. Weights are random, and moved off the zeros and ones that some layers start from: that an
export lost such a layer would go unnoticed otherwise. What counts here is whether the graph computes the same.
"""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "export_breadth.jsonl"
REPORT = ROOT / "docs" / "export_breadth.md"
SEED = 0
TARGETS = ("onnx", "torch-export", "openvino", "executorch")


@dataclass
class Settings:
    """What to run."""

    targets: tuple[str, ...] = ("onnx",)
    """Targets of ssia_zoo.exporting."""
    families: tuple[str, ...] = ()
    """Families of timm; all if none is named."""
    timeout: int = 900
    """Processor seconds for one export."""
    again: bool = False
    """Repeat what failed before."""
    report: bool = False
    """Run nothing, write the report."""


def smallest_models() -> dict[str, str]:
    """Family → its model with the fewest parameters; cached in the results' folder, since counting takes minutes."""
    import timm
    import torch
    from timm.models import model_entrypoint

    cache = RESULTS.with_name("smallest_models.json")
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
        except Exception:  # some cannot be built without values; the family's first name is taken then
            continue
        best[family] = min(best.get(family, (count, name)), (count, name))
    listed = {family: timm.list_models(module=family) for family in families}
    unknown = [(10**12, listed[family][0], family) for family in families if family not in best]
    ordered = sorted([(*best[family], family) for family in best] + unknown)
    models = {family: name for _, name, family in ordered}  # the smallest first
    cache.parent.mkdir(exist_ok=True)
    cache.write_text(json.dumps({"timm": timm.__version__, "models": models}, indent=1) + "\n")
    return models


def shaken(name: str) -> Any:
    """A model with random weights, none of them neutral: a layer scale of 1e-6 or a head of zeros would hide errors."""
    import timm
    import torch

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


def export_one(target: str, name: str) -> dict[str, Any]:
    """Export one model into a folder that goes again; what came of it."""
    from ssia_zoo.errors import SSIAZooError
    from ssia_zoo.exporting import _load_script, export_model

    start = time.perf_counter()
    try:
        model = shaken(name)
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / f"model{_load_script(target).SUFFIX}"
            result = export_model(target, model, name, out, weights="random")
        parity = result.manifest["parity"]
        keys = ("max_abs_error", "max_abs_logit", "tolerance", "top1_agreement", "images")
        outcome = {"ok": True, **{key: parity[key] for key in keys}, "versions": result.manifest["versions"]}
        outcome["input"] = result.manifest["input"]["shape"][1:]
    except SSIAZooError as error:
        outcome = {"ok": False, "reason": str(error)}
    except Exception as error:
        outcome = {"ok": False, "reason": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    return outcome | {"seconds": round(time.perf_counter() - start, 1)}


def run_child(target: str, name: str, timeout: int) -> dict[str, Any]:
    """`export_one` in a process of its own, which may crash or hang."""
    command = [sys.executable, __file__, "--child", target, name]
    limit = f"ulimit -t {timeout}; exec "  # of processor time: on a busy machine a slow export is not a hung one
    done = subprocess.run(
        ["bash", "-c", limit + shlex.join(command)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        timeout=20 * timeout,
    )
    lines = done.stdout.splitlines()
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return {"ok": False, "reason": f"not done after {timeout} s of processor time, or killed for want of memory"}
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"ok": False, "reason": f"the process ended with status {done.returncode}: {last[:200]}"}
    outcome: dict[str, Any] = json.loads(lines[-1])
    return outcome


def read_results() -> dict[tuple[str, str], dict[str, Any]]:
    """The newest outcome for each (family, target)."""
    if not RESULTS.is_file():
        return {}
    records = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
    return {(record["family"], record["target"]): record for record in records}


def write_report(models: dict[str, str]) -> None:
    """Write docs/export_breadth.md from what is known."""
    results = read_results()
    targets = [target for target in TARGETS if any(key[1] == target for key in results)]
    lines = [
        "# Export, family by family",
        "",
        "The smallest model of every timm family, exported and compared with PyTorch on 15 real images (batches of 1,",
        "7 and 7). A figure is the largest logit error, as a fraction of the largest logit where that is above 1; up",
        "to 1e-3 passes. Weights are random (seed 0). By `python benchmarks/export_breadth.py`; do not edit.",
        "",
    ]
    for target in targets:
        known = [record for (_, name), record in results.items() if name == target]
        passed = sum(record["ok"] for record in known)
        partial = "" if len(known) == len(models) else f" (**partial**: {len(models) - len(known)} have not been run)"
        lines.append(f"- {target}: {passed} of {len(known)} families pass{partial}")
    versions: dict[str, str] = next((r["versions"] for r in reversed(results.values()) if "versions" in r), {})
    lines += ["", ", ".join(f"{key} {value}" for key, value in versions.items() if key != "ssia-zoo"), ""]
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
        lines += ["", "## Why some fail", "", "| family | target | reason |", "|---|---|---|", *reasons]
    REPORT.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(settings: Settings) -> None:
    """Run what is missing and write the report."""
    models = smallest_models()
    RESULTS.parent.mkdir(exist_ok=True)
    for target in () if settings.report else settings.targets:
        for family in settings.families or models:
            name = models[family]
            old = read_results().get((family, target))
            if old is not None and (old["ok"] or not settings.again):
                continue
            outcome = run_child(target, name, settings.timeout)
            record = {"family": family, "model": name, "target": target, "seed": SEED, **outcome}
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            print(f"{target} {family} {name}: {'ok' if outcome['ok'] else outcome['reason']}", flush=True)
            write_report(models)
    write_report(models)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(export_one(*sys.argv[2:4])))
    else:
        main(tyro.cli(Settings))
