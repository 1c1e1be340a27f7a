"""Measure what `import ssia_zoo` adds to `import timm`, in fresh processes.

    python benchmarks/import_cost.py

Each process imports timm, then ssia_zoo, and reports the time of both and the data files that the second one opened.
The result is appended to results/import_cost.jsonl.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys

import tyro
from recording import RESULTS, append_record, environment

ROUNDS = 15

_CHILD = """
import json, sys, time
start = time.perf_counter()
import timm, torch
middle = time.perf_counter()
opened = []
sys.addaudithook(lambda event, args: event == "open" and opened.append(str(args[0])))
clock = time.perf_counter()
import ssia_zoo
end = time.perf_counter()
data = sorted({name.rsplit("/", 1)[-1] for name in opened if not name.endswith((".py", ".pyc"))})
print(json.dumps({"timm": middle - start, "ssia_zoo": end - clock, "read": data, "weights": len(ssia_zoo.weights())}))
"""


def main() -> None:
    """Measure what `import ssia_zoo` adds to `import timm`."""
    load = os.getloadavg()[0]
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    runs = []
    for _ in range(ROUNDS + 1):  # the first one writes byte code and does not count
        command = [sys.executable, "-c", _CHILD]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
        runs.append(json.loads(done.stdout))
    milliseconds = {name: [1000 * run[name] for run in runs[1:]] for name in ("timm", "ssia_zoo")}
    result = {
        "rounds": ROUNDS,
        "timm_ms_median": round(statistics.median(milliseconds["timm"]), 1),
        "ssia_zoo_ms_median": round(statistics.median(milliseconds["ssia_zoo"]), 1),
        "ssia_zoo_ms": [round(value, 1) for value in milliseconds["ssia_zoo"]],
        "weights": runs[-1]["weights"],
        "read": runs[-1]["read"],
        **environment(load, ("timm", "torch", "ssia-zoo")),
    }
    append_record(RESULTS / "import_cost.jsonl", result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
