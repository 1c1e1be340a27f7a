"""Measure the CPU time to load a folder of images and the first batch, by number of images.

    python benchmarks/startup.py

For 1,000, 11,000 and 100,000 small images (ten classes, a tenth of them to evaluate on) in a temporary folder, a fresh
process loads the data and the first training batch. CPU time is user and system time of the process and its children,
after the imports. The result is appended to results/startup.jsonl.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import tyro
from recording import RESULTS, append_record, environment

SIZES = (1_000, 11_000, 100_000)
ROUNDS = 3

_CHILD = """
import json, resource, sys, time
from ssia_zoo.data import DataConfig, data_identity, load_image_data, train_loader

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

def cpu():
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)

config = DataConfig(sys.argv[1], image_size=8, batch_size=8, workers=0)
parts, clock, wall = {"imports_mb": peak()}, cpu(), time.perf_counter()
data = load_image_data(config)
parts["load"] = cpu() - clock
next(iter(train_loader(data, config, mean=(0.5,) * 3, std=(0.5,) * 3, seed=0)))
parts["first_batch"] = cpu() - clock
parts["peak_mb"] = peak()
data_identity(data)
parts["identity"] = cpu() - clock
print(json.dumps({"images": len(data.train) + len(data.eval), "wall": time.perf_counter() - wall, **parts}))
"""


def make_folder(root: Path, images: int, different: int | None = None) -> None:
    """Write small images; all of them different, or `different` many and hard links to these."""
    names = []
    for number in range(images):
        split = "test" if number % 10 == 9 else "train"
        name = f"{root}/{split}/class{number // 10 % 10}/{number:07d}.bmp"
        if different is not None and number >= different:
            os.link(names[number % different], name)  # the same split and class, if `different` is a multiple of 100
            continue
        names.append(name)
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((2, 2, 3), 0, dtype=np.uint8)
        pixels.ravel()[:3] = number % 256, number // 256 % 256, number // 65536
        PIL.Image.fromarray(pixels).save(name)


def measure(folder: Path, rounds: int = ROUNDS) -> dict[str, Any]:
    """Return the measurement with the least CPU time, of a few fresh processes."""
    runs = []
    for _ in range(rounds):
        done = subprocess.run([sys.executable, "-c", _CHILD, str(folder)], capture_output=True, text=True, check=True)
        runs.append(json.loads(done.stdout))
    best: dict[str, Any] = min(runs, key=lambda run: run["first_batch"])
    return {name: round(value, 3) for name, value in best.items()}


def main() -> None:
    """Measure the CPU time to load a folder of images and the first batch."""
    load, measured = os.getloadavg()[0], []
    for images in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            make_folder(Path(folder), images)
            measured.append(measure(Path(folder)))
            print(measured[-1], flush=True)
    about = environment(load, ("datasets", "pillow", "pyarrow", "ssia-zoo"))
    append_record(RESULTS / "startup.jsonl", {"rounds": ROUNDS, "cpu_seconds": measured, **about})


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
