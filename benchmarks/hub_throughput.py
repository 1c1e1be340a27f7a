"""Measure what our checks add to publishing, fetching and creating a model of 100 MB with huggingface_hub and timm.

    python benchmarks/hub_throughput.py             # measure, append to results/hub_throughput.jsonl, write the table
    python benchmarks/hub_throughput.py --report    # only write the table in docs/publishing.md

Our function and the plain one take turns, with fresh repositories and caches where the measurement needs them, against
the tests' Hub server in another process on loopback. There the network costs almost nothing, so these ratios are the
worst case. Times are medians of wall time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import timm
import torch
import tyro
from huggingface_hub import CommitOperationAdd, HfApi, constants
from huggingface_hub.utils import disable_progress_bars
from recording import (
    DOCS,
    RESULTS,
    ROOT,
    Record,
    append_record,
    environment,
    in_turns,
    machine_text,
    quartiles,
    read_results,
    replace_table,
    timed,
)

from ssia_zoo.data.preprocessing import Preprocessing
from ssia_zoo.hub import PUBLISHED_FILES, fetch, file_sha256, publish
from ssia_zoo.models import registry
from ssia_zoo.models.saving import write_model_folder

RECORDS = RESULTS / "hub_throughput.jsonl"
REPORT = DOCS / "publishing.md"
ARCH, CLASSES, TAG = "resnet50", 1000, "noise_r64"  # 25.6 million parameters: 102 MB
TOKEN = "hf_good"
SERVER = """
import sys
from tests.helpers.hub_server import HubServer
with HubServer(tokens={"hf_good": "alice"}, orgs={}) as server:
    print(server.url, flush=True)
    for _ in sys.stdin:  # each line is a request to delete all uploads
        server.lfs.clear(), server.repos.clear(), server.requests.clear()
        print("done", flush=True)
"""


Times = dict[str, list[float]]
"""Wall seconds of "ours" and "bare", turn by turn."""


@dataclass(frozen=True)
class Arguments:
    """Measure the cost of our checks against huggingface_hub and timm."""

    repeats: int = 15
    """repetitions of each measurement"""
    report: bool = False
    """only write the table in docs/publishing.md"""


@contextmanager
def hub_in_another_process() -> Iterator[tuple[str, Callable[[], None]]]:
    """Run the Hub server; yield its address and a function that deletes all uploads."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", SERVER], env=variables, **pipes) as process:

        def forget() -> None:
            process.stdin.write("forget\n")
            process.stdin.flush()
            process.stdout.readline()

        try:
            yield process.stdout.readline().strip(), forget
        finally:
            process.stdin.close()


def alternate(ours: Callable[[], float], bare: Callable[[], float], repeats: int) -> Times:
    return in_turns({"ours": ours, "bare": bare}, repeats)


def seconds(action: Callable[[], object]) -> float:
    return timed(action)().wall


def measure(repeats: int) -> list[Record]:
    results: list[Record] = []
    with tempfile.TemporaryDirectory() as name, hub_in_another_process() as (url, forget):
        temporary = Path(name)
        folder = make_folder(temporary / "folder")
        weights = folder / "model.safetensors"
        sha256, size = file_sha256(weights), weights.stat().st_size
        api = HfApi(endpoint=url, token=TOKEN)

        def bare_publish() -> None:
            api.create_repo("alice/bare", exist_ok=True)
            files = [CommitOperationAdd(path_in_repo=file, path_or_fileobj=folder / file) for file in PUBLISHED_FILES]
            api.create_commit("alice/bare", files, commit_message="Upload")

        def on_an_empty_hub(action: Callable[[], object]) -> Callable[[], float]:
            return lambda: (forget(), seconds(action))[1]

        def note(what: str, target: float | None, times: Times) -> None:
            results.append(result(what, target, times, size))
            print(json.dumps({key: results[-1][key] for key in ("what", "ours_s", "bare_s", "ratio")}), flush=True)

        def our_publish() -> str:
            return publish(folder, "alice/ours", token=TOKEN, endpoint=url)

        times = alternate(on_an_empty_hub(our_publish), on_an_empty_hub(bare_publish), repeats)
        note("publish: hub.publish / HfApi.create_commit", 1.1, times)

        forget()
        where: dict[str, Any] = {"revision": our_publish().rsplit("/", 1)[1]}

        def our_fetch(cache: Path) -> float:
            arguments = {**where, "sha256": sha256, "token": TOKEN, "endpoint": url, "cache_dir": cache}
            return seconds(lambda: fetch("alice/ours", "model.safetensors", **arguments))

        def bare_fetch(cache: Path) -> float:
            return seconds(lambda: api.hf_hub_download("alice/ours", "model.safetensors", **where, cache_dir=cache))

        def into_an_empty_cache(action: Callable[[Path], float]) -> Callable[[], float]:
            def call() -> float:
                with tempfile.TemporaryDirectory(dir=temporary) as cache:
                    return action(Path(cache))

            return call

        times = alternate(into_an_empty_cache(our_fetch), into_an_empty_cache(bare_fetch), repeats)
        note("fetch, empty cache: hub.fetch / hf_hub_download", 1.1, times)
        cache = temporary / "cache"
        times = alternate(lambda: our_fetch(cache), lambda: bare_fetch(cache), repeats)
        note("fetch, in the cache: hub.fetch / hf_hub_download", None, times)

        for what, target, times in measure_create(temporary / "hub_configs", weights, sha256, repeats):
            note(what, target, times)
    return results


def measure_create(
    hub_configs: Path, weights: Path, sha256: str, repeats: int
) -> Iterator[tuple[str, float | None, Times]]:
    """Create the model by our entrypoint and by timm's, from the same file."""
    name = write_entry(hub_configs, weights, sha256)
    with patch.object(registry, "resource_dir", lambda _: hub_configs):  # the package's folder has no such weight
        registry.register_published()
        file = {"file": str(hub_configs / f"{name}.safetensors")}

        def ours() -> float:
            return seconds(lambda: timm.create_model(name, pretrained=True))

        def bare() -> float:
            return seconds(lambda: timm.create_model(ARCH, pretrained=True, pretrained_cfg_overlay=file))

        def ours_unknown() -> float:
            os.utime(file["file"])  # a changed file is hashed again
            return ours()

        yield "create_model, again: our entry point / timm's", 1.05, alternate(ours, bare, repeats)
        yield "create_model, first time: our entry point / timm's", None, alternate(ours_unknown, bare, repeats)


def make_folder(folder: Path) -> Path:
    """Write a publishable folder of a model with random weights."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    write_model_folder(
        timm.create_model(ARCH),
        folder,
        architecture=ARCH,
        label_names=[f"class {index}" for index in range(CLASSES)],
        preprocessing=Preprocessing(
            input_size=(3, 64, 64), mean=(0.5,) * 3, std=(0.25,) * 3, interpolation="bicubic", crop_pct=1.0
        ),
        metadata={},
        card="---\ntags: [timm]\n---\n# Random values\n",
    )
    return folder


def write_entry(hub_configs: Path, weights: Path, sha256: str) -> str:
    """Register the file as an embedded weight; return its name."""
    hub_configs.mkdir()
    name = f"{ARCH}_ssia.{TAG}"
    (hub_configs / f"{name}.safetensors").write_bytes(weights.read_bytes())
    entry = {
        **{"architecture": ARCH, "tag": TAG, "default": True, "description": "random values"},
        **{"file": f"{name}.safetensors", "sha256": sha256},
        **dict.fromkeys(("repo_id", "revision", "repo_sha256")),
        **{"num_classes": CLASSES, "label_names": [f"class {index}" for index in range(CLASSES)]},
        **{"input_size": [3, 64, 64], "mean": [0.5] * 3, "std": [0.25] * 3},
        **{"interpolation": "bicubic", "crop_pct": 1.0, "license": "apache-2.0"},
        "dataset": {"name": "noise", "source": "noise", "license": "none", "terms": "none"},
        **{"training": {}, "environment": {}},
        "metrics": {
            **{"split": "none", "images": 1, "seed": 0, "top1": 0.1, "control_top1": 0.1},
            "runs": [{"seed": 0, "ssia": 0.1, "vanilla": 0.1}],
        },
    }
    (hub_configs / f"{name}.json").write_text(json.dumps(entry))
    return name


def result(what: str, target: float | None, times: Times, size: int) -> Record:
    ours, bare = times["ours"], times["bare"]
    return {
        "benchmark": "hub_throughput",
        "what": what,
        "ours_s": round(median(ours), 6),
        "bare_s": round(median(bare), 6),
        "ratio": round(median(ours) / median(bare), 3),
        "ratio_of_pairs_quartiles": quartiles([a / b for a, b in zip(ours, bare, strict=True)], 3),
        "target": target,
        "repeats": len(ours),
        "bytes": size,
        "times_s": {name: [round(seconds, 6) for seconds in values] for name, values in times.items()},
        "threads": torch.get_num_threads(),
    }


def write_table() -> None:
    """Write the newest record of each measurement into docs/publishing.md."""
    records = list({record["what"]: record for record in read_results(RECORDS)}.values())
    lines = ["| | ours, s | bare, s | ratio, median of pairs | quartiles | target |", "|---|---|---|---|---|---|"]
    for record in records:
        low, middle, high = record["ratio_of_pairs_quartiles"]
        target = f"≤ {record['target']}" if record["target"] else "–"
        lines.append(
            f"| {record['what']} | {record['ours_s']:.3g} | {record['bare_s']:.3g} | {middle:.2f} | "
            f"{low:.2f}–{high:.2f} | {target} |"
        )
    one = records[0]
    versions = ", ".join(f"{name} {version}" for name, version in one["versions"].items())
    machine = machine_text(one["machine"])
    lines += ["", f"{one['bytes'] / 1e6:.0f} MB, {one['repeats']} repeats, {machine}; {versions}."]
    replace_table(REPORT, "hub_throughput", lines)


def main(arguments: Arguments) -> None:
    if not arguments.report:
        load = os.getloadavg()[0]
        disable_progress_bars()
        constants.HF_HUB_DISABLE_XET, constants.HF_HUB_OFFLINE = True, False  # the tests' server has no Xet
        with tempfile.TemporaryDirectory() as home:
            constants.HF_HOME = home  # keeps the list of verified files out of the user's cache
            results = measure(arguments.repeats)
        about = environment(load, ("torch", "timm", "huggingface_hub", "ssia-zoo"))
        for record in results:
            append_record(RECORDS, {**record, **about})
    write_table()


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
