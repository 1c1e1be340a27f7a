"""Train several runs one after another in the same processes, as starting a process costs more than a small run.

Started by torchrun. Each argument is a JSON list of train_hf.py's flags. The main process writes the collective
operations of the first runs (by name, the number of calls and of elements sent) to the file that the variable
COLLECTIVES names; of how many, PROFILED says: the profiler makes a small run several times as long.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections import defaultdict
from pathlib import Path

from accelerate.state import PartialState
from torch.profiler import ProfilerActivity, profile

from ssia_zoo.training import parse_config, train


def collectives(profiled: profile) -> dict[str, dict[str, int]]:
    counted: dict[str, dict[str, int]] = defaultdict(lambda: {"calls": 0, "elements": 0})
    for event in profiled.events():
        if event.name.startswith("gloo:"):
            counted[event.name]["calls"] += 1
            counted[event.name]["elements"] += sum(math.prod(shape) for shape in event.input_shapes if shape)
    return dict(counted)


def main() -> None:
    PartialState.destroy_process_group = lambda *_: None  # the next run still needs it
    found = []
    for number, argument in enumerate(sys.argv[1:]):
        config = parse_config(json.loads(argument))
        if number < int(os.environ["PROFILED"]):
            with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
                train(config)
            found.append(collectives(profiled))
        else:
            train(config)
    if PartialState().is_main_process:
        Path(os.environ["COLLECTIVES"]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
