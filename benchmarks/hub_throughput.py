"""What our checks cost: publishing, fetching and creating a model of some 100 MB, beside the bare tools.

    python benchmarks/hub_throughput.py                 # measures, writes results/hub_throughput.jsonl and the table
    python benchmarks/hub_throughput.py --table-only    # writes the table of docs/publishing.md anew

Ours and the bare tool alternate in one run, each time on fresh repositories and caches where that is meant, against the
tests' Hub server in a process of its own on loopback: there the network costs next to nothing, so the ratios are those
of the worst case. The figures are medians of wall times.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from unittest.mock import patch

import huggingface_hub
import timm
import torch
import tyro
from huggingface_hub import CommitOperationAdd, HfApi, constants
from huggingface_hub.utils import disable_progress_bars

import ssia_zoo
from ssia_zoo.data.preprocessing import Preprocessing
from ssia_zoo.hub import PUBLISHED_FILES, fetch, file_sha256, publish
from ssia_zoo.models import registry
from ssia_zoo.models.saving import write_model_folder

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "hub_throughput.jsonl"
DOCS = ROOT / "docs" / "publishing.md"
START, END = "<!-- hub_throughput -->\n", "<!-- end of hub_throughput -->"
ARCH, CLASSES, TAG = "resnet50", 1000, "noise_r64"  # 25.6 million parameters: 102 MB
TOKEN = "hf_good"
SERVER = """
import sys
from hub_server import HubServer
with HubServer(tokens={"hf_good": "alice"}, orgs={}) as server:
    print(server.url, flush=True)
    for _ in sys.stdin:  # each line asks to forget what was uploaded
        server.lfs.clear(), server.repos.clear(), server.requests.clear()
        print("done", flush=True)
"""


@dataclass(frozen=True)
class Arguments:
    """Measure what our checks cost, beside the bare tools."""

    repeats: int = 15
    """of each measurement"""
    table_only: bool = False
    """measure nothing, write the table of docs/publishing.md anew"""


@contextmanager
def hub_in_another_process() -> Iterator[tuple[str, Callable[[], None]]]:
    """The server's address, and a function that makes it forget everything."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", SERVER], env=environment, **pipes) as process:

        def forget() -> None:
            process.stdin.write("forget\n")
            process.stdin.flush()
            process.stdout.readline()

        try:
            yield process.stdout.readline().strip(), forget
        finally:
            process.stdin.close()


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def alternate(
    ours: Callable[[], float], bare: Callable[[], float], repeats: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Take turns, and turns in being first; one turn of each goes before, uncounted."""
    ours(), bare()
    times: list[tuple[float, float]] = []
    for turn in range(repeats):
        first = ours() if turn % 2 == 0 else None
        other = bare()
        times.append((first if first is not None else ours(), other))
    mine, theirs = zip(*times, strict=True)
    return mine, theirs


def measure(repeats: int) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name, hub_in_another_process() as (url, forget):
        room = Path(name)
        folder = make_folder(room / "folder")
        weights = folder / "model.safetensors"
        sha256, size = file_sha256(weights), weights.stat().st_size
        api = HfApi(endpoint=url, token=TOKEN)

        def bare_publish() -> None:
            api.create_repo("alice/bare", exist_ok=True)
            files = [CommitOperationAdd(path_in_repo=file, path_or_fileobj=folder / file) for file in PUBLISHED_FILES]
            api.create_commit("alice/bare", files, commit_message="Upload")

        def emptied(action: Callable[[], object]) -> Callable[[], float]:
            return lambda: (forget(), seconds(action))[1]

        def note(what: str, target: float | None, times: tuple[tuple[float, ...], tuple[float, ...]]) -> None:
            results.append(result(what, target, *times, size))
            print(json.dumps({key: results[-1][key] for key in ("what", "ours_s", "bare_s", "ratio")}), flush=True)

        times = alternate(
            emptied(lambda: publish(folder, "alice/ours", token=TOKEN, endpoint=url)), emptied(bare_publish), repeats
        )
        note("publish: hub.publish / HfApi.create_commit", 1.1, times)

        forget()
        commit = publish(folder, "alice/ours", token=TOKEN, endpoint=url).rsplit("/", 1)[1]
        where: dict[str, Any] = {"revision": commit}

        def our_fetch(cache: Path) -> float:
            arguments = {**where, "sha256": sha256, "token": TOKEN, "endpoint": url, "cache_dir": cache}
            return seconds(lambda: fetch("alice/ours", "model.safetensors", **arguments))

        def bare_fetch(cache: Path) -> float:
            return seconds(lambda: api.hf_hub_download("alice/ours", "model.safetensors", **where, cache_dir=cache))

        def into_an_empty_cache(action: Callable[[Path], float]) -> Callable[[], float]:
            def timed() -> float:
                with tempfile.TemporaryDirectory(dir=room) as cache:
                    return action(Path(cache))

            return timed

        times = alternate(into_an_empty_cache(our_fetch), into_an_empty_cache(bare_fetch), repeats)
        note("fetch, empty cache: hub.fetch / hf_hub_download", 1.1, times)
        cache = room / "cache"
        times = alternate(lambda: our_fetch(cache), lambda: bare_fetch(cache), repeats)
        note("fetch, in the cache: hub.fetch / hf_hub_download", None, times)

        for what, target, times in measure_create(room / "hub_configs", weights, sha256, repeats):
            note(what, target, times)
    return results


def measure_create(hub_configs: Path, weights: Path, sha256: str, repeats: int) -> Iterator[Any]:
    """Create the model by our entry point and by timm's, from the same file."""
    name = write_entry(hub_configs, weights, sha256)
    with patch.object(registry, "resource_dir", lambda _: hub_configs):  # the package's own folder holds no such weight
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
    """A publishable folder of a model of random values."""
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
    """Describe the file as an embedded weight; returns the name."""
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


def result(
    what: str, target: float | None, ours: tuple[float, ...], bare: tuple[float, ...], size: int
) -> dict[str, Any]:
    pairs = quantiles([mine / theirs for mine, theirs in zip(ours, bare, strict=True)], n=4)
    return {
        "benchmark": "hub_throughput",
        "what": what,
        "ours_s": round(median(ours), 6),
        "bare_s": round(median(bare), 6),
        "ratio": round(median(ours) / median(bare), 3),
        "ratio_of_pairs_quartiles": [round(value, 3) for value in pairs],
        "target": target,
        "repeats": len(ours),
        "bytes": size,
        "times_s": {"ours": [round(t, 6) for t in ours], "bare": [round(t, 6) for t in bare]},
        "versions": {
            **{"python": platform.python_version(), "torch": torch.__version__, "timm": timm.__version__},
            **{"huggingface_hub": huggingface_hub.__version__, "ssia-zoo": ssia_zoo.__version__},
        },
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "threads": torch.get_num_threads(),
    }


def write_table(results: list[dict[str, Any]]) -> None:
    """Put the results between the two marks of docs/publishing.md."""
    lines = ["| | ours, s | bare, s | ratio | quartiles of pairs | target |", "|---|---|---|---|---|---|"]
    for entry in results:
        low, _, high = entry["ratio_of_pairs_quartiles"]
        target = f"≤ {entry['target']}" if entry["target"] else "–"
        lines.append(
            f"| {entry['what']} | {entry['ours_s']:.3g} | {entry['bare_s']:.3g} | {entry['ratio']:.2f} | "
            f"{low:.2f}–{high:.2f} | {target} |"
        )
    one = results[0]
    versions = ", ".join(f"{name} {version}" for name, version in one["versions"].items())
    lines += ["", f"{one['bytes'] / 1e6:.0f} MB, {one['repeats']} repeats, {one['machine']}; {versions}."]
    text = DOCS.read_text(encoding="utf-8")
    head, rest = text.split(START)
    DOCS.write_text(head + START + "\n".join(lines) + "\n" + END + rest.split(END)[1], encoding="utf-8")


def main(arguments: Arguments) -> None:
    if not arguments.table_only:
        disable_progress_bars()
        constants.HF_HUB_DISABLE_XET, constants.HF_HUB_OFFLINE = True, False  # the tests' server does not have Xet
        with tempfile.TemporaryDirectory() as home:
            constants.HF_HOME = home  # what is known of verified files must not outlive the run
            results = measure(arguments.repeats)
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text("".join(json.dumps(entry) + "\n" for entry in results), encoding="utf-8")
    write_table([json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()])


if __name__ == "__main__":
    main(tyro.cli(Arguments))
