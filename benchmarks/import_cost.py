"""What `import ssia_zoo` adds to `import timm`, measured in fresh processes.

    python benchmarks/import_cost.py

Each process imports timm, then ssia_zoo, and says how long either took and which files the second one opened. One JSON
line with versions and machine goes to benchmarks/results/import_cost.jsonl.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results" / "import_cost.jsonl"
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
versions = {"timm": timm.__version__, "torch": torch.__version__, "ssia-zoo": ssia_zoo.__version__}
print(json.dumps({"timm": middle - start, "ssia_zoo": end - clock, "read": data, "weights": len(ssia_zoo.weights()),
                  "versions": versions}))
"""


def main() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    runs = []
    for _ in range(ROUNDS + 1):  # the first one writes byte code, and does not count
        done = subprocess.run(
            [sys.executable, "-c", _CHILD], env=environment, capture_output=True, text=True, check=True
        )
        runs.append(json.loads(done.stdout))
    milliseconds = {name: [1000 * run[name] for run in runs[1:]] for name in ("timm", "ssia_zoo")}
    result = {
        "rounds": ROUNDS,
        "timm_ms_median": round(statistics.median(milliseconds["timm"]), 1),
        "ssia_zoo_ms_median": round(statistics.median(milliseconds["ssia_zoo"]), 1),
        "ssia_zoo_ms": [round(value, 1) for value in milliseconds["ssia_zoo"]],
        "weights": runs[-1]["weights"],
        "read": runs[-1]["read"],
        "versions": {"python": platform.python_version(), **runs[-1]["versions"]},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
