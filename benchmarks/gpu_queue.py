"""Train an item of gpu_queue.yaml on a remote GPU with limited time: pack here, run there, unpack here.

    python benchmarks/gpu_queue.py pack 1 --data-root DATA     # copy the data of item 1 into runs/gpu/
    python benchmarks/gpu_queue.py run --out OUT --minutes 8   # on the GPU, in a copy of the tree with runs/gpu/
    python benchmarks/gpu_queue.py unpack OUT                  # into runs/weights/, for make_weight.py

`run` trains all methods and seeds of the item at the same time with train_hf.py and the item's recipe, and packs the
runs that finish in time: float16 weights (as published), settings, log and card, in pieces of at most 16 MiB. Arguments
after `--` go to train_hf.py. To try it on a CPU:

    python benchmarks/gpu_queue.py run --out OUT -- --max-steps 2 --image-size 64 --max-train-images 64 --batch-size 32
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
import yaml
from half_precision import half_precision

ROOT = Path(__file__).resolve().parent.parent
PACKED = ROOT / "runs" / "gpu"
WEIGHTS = ROOT / "runs" / "weights"
RECIPES = (ROOT / "hub_configs" / "recipes", ROOT / "benchmarks" / "recipes")  # of published weights; of others
MAX_DATA, MAX_FILE = 60 * 2**20, 16 * 2**20
TEXTS = ("config.json", "metrics.jsonl", "train_config.yaml", "README.md")


@dataclass(frozen=True)
class Pack:
    """Copy the data of an item into runs/gpu/."""

    item: tyro.conf.Positional[int]
    """index of the item in gpu_queue.yaml, from 0"""
    data_root: Path
    """folder that contains the folders of the data sets"""


@dataclass(frozen=True)
class Run:
    """Train all runs of the packed item at the same time, and pack those that finish in time."""

    out: Path
    """folder for the results"""
    minutes: float = 8.0
    """time limit; unfinished runs are stopped and left out"""


@dataclass(frozen=True)
class Unpack:
    """Unpack results into runs/weights/, where make_weight.py looks for runs."""

    folder: tyro.conf.Positional[Path]
    """the folder that `run` wrote to"""


def pack(arguments: Pack) -> None:
    item = yaml.safe_load((ROOT / "benchmarks" / "gpu_queue.yaml").read_text(encoding="utf-8"))[arguments.item]
    source = arguments.data_root / item["data"]
    files = [path for pattern in item["files"] for path in sorted(source.glob(pattern))]
    size = sum(path.stat().st_size for path in files)
    if not files or size > MAX_DATA:
        sys.exit(
            f"{len(files)} files of {size / 2**20:.1f} MiB in {source}; expected at least one file and at most "
            f"{MAX_DATA >> 20} MiB"
        )
    shutil.rmtree(PACKED, ignore_errors=True)
    (PACKED / item["data"]).mkdir(parents=True)
    for path in files:
        shutil.copyfile(path, PACKED / item["data"] / path.name)
    (PACKED / "item.json").write_text(json.dumps(item, indent=2) + "\n", encoding="utf-8")
    needed = f" and {item['base']}" if "base" in item else ""
    print(f"{item['name']}: {size / 2**20:.1f} MiB of data in {PACKED}; copy it with the tree{needed}")


def run(arguments: Run, more: list[str]) -> None:
    item = json.loads((PACKED / "item.json").read_text(encoding="utf-8"))
    arguments.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * arguments.minutes
    folders = {
        (method, seed): PACKED / "runs" / f"{method}_seed{seed}" for seed in item["seeds"] for method in item["methods"]
    }
    started = [start(item, method, seed, folder, more) for (method, seed), folder in folders.items()]
    while any(process.poll() is None for process in started) and time.monotonic() < end:
        time.sleep(0.5)
    for process in started:
        process.kill()
        process.wait()
    finished = [folder for folder in folders.values() if (folder / "model.safetensors").exists()]
    for folder in folders.values():
        log = folder.with_suffix(".log")
        state = "finished" if folder in finished else f"NOT FINISHED: {log.read_text(errors='replace').strip()[-300:]}"
        print(f"{folder.name}: {state}")
    write_archives(finished, item["name"], arguments.out)


def start(item: dict[str, Any], method: str, seed: int, folder: Path, more: list[str]) -> subprocess.Popen[bytes]:
    recipe = next(folder / f"{item['name']}.yaml" for folder in RECIPES if (folder / f"{item['name']}.yaml").exists())
    words = ["--config", recipe, "--dataset", PACKED / item["data"], "--method", method, "--seed", seed]
    words += ["--output-dir", folder, *item.get("flags", ()), *more]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "train_hf.py"), *map(str, words)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def write_archives(folders: list[Path], name: str, out: Path) -> None:
    """Write a tar of each run, in pieces of at most MAX_FILE bytes."""
    for folder in folders:
        files = {"model.safetensors": half_precision(folder / "model.safetensors")}
        files |= {text: (folder / text).read_bytes() for text in TEXTS}
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for file, data in files.items():
                info = tarfile.TarInfo(f"{name}/{folder.name}/{file}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        content = archive.getvalue()
        starts = range(0, len(content), MAX_FILE)
        for number, start in enumerate(starts):
            (out / f"{name}.{folder.name}.tar.{number:02d}").write_bytes(content[start : start + MAX_FILE])
        print(f"{out / name}.{folder.name}.tar: {len(content) / 2**20:.1f} MiB in {len(starts)} pieces")


def unpack(arguments: Unpack) -> None:
    pieces = sorted(arguments.folder.glob("*.tar.*"))
    if not pieces:
        sys.exit(f"no .tar.00 file in {arguments.folder}; expected the folder that `run` wrote to")
    for name in sorted({piece.stem for piece in pieces}):
        content = b"".join(piece.read_bytes() for piece in pieces if piece.stem == name)
        try:
            with tarfile.open(fileobj=io.BytesIO(content)) as tar:
                tar.extractall(WEIGHTS, filter="data")
                print(*tar.getnames(), sep="\n")
        except tarfile.ReadError as error:
            sys.exit(f"{arguments.folder / name} lacks a piece ({error}); copy all of them and unpack again")


if __name__ == "__main__":
    own, more = sys.argv[1:], []
    if "--" in own:
        own, more = own[: own.index("--")], own[own.index("--") + 1 :]
    arguments: Any = tyro.cli(Pack | Run | Unpack, args=own, description=__doc__)  # type: ignore[arg-type]
    if isinstance(arguments, Run):
        run(arguments, more)
    else:
        {Pack: pack, Unpack: unpack}[type(arguments)](arguments)
